"""Files from S3 to a node's disk, verified: weights, speculators, compile caches. No ray, no vllm."""
