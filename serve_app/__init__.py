"""An OpenAI-compatible service for gpt-oss on Ray Serve and vLLM."""
