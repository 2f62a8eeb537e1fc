"""A two-step tool loop with the `openai-agents` package, on both APIs."""

from __future__ import annotations

import asyncio

import agents
import pytest
from openai import AsyncOpenAI

from tests.services import MODEL, Service

pytestmark = pytest.mark.app


@pytest.mark.parametrize("api", [agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
def test_tool_loop(
    service: Service, api: type[agents.OpenAIChatCompletionsModel] | type[agents.OpenAIResponsesModel]
) -> None:
    asked: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        asked.append(city)
        return "sunny"

    async def run() -> str:
        async with AsyncOpenAI(base_url=service.v1, api_key="none", max_retries=0) as client:
            agent = agents.Agent(
                name="weather",
                model=api(model=MODEL, openai_client=client),
                tools=[get_weather],
                model_settings=agents.ModelSettings(temperature=0),
            )
            result = await agents.Runner.run(
                agent,
                "What is the weather in Paris? Use get_weather.",
                max_turns=3,
                run_config=agents.RunConfig(tracing_disabled=True),
            )
            return str(result.final_output)

    answer = asyncio.run(run())
    assert asked == ["Paris"]
    assert "sunny" in answer
