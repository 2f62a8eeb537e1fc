"""The `openai-agents` package, on both APIs: tools, streams, structured output, further turns, handoffs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import agents
import pydantic
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

SUM = "What is 2 + 3?"
WEATHER = "What is the weather in Paris? Use get_weather."
PERSON = "Give me a JSON object with name and age"
MAX_TURNS = 3
QUIET = agents.RunConfig(tracing_disabled=True)

Api = type[agents.OpenAIChatCompletionsModel] | type[agents.OpenAIResponsesModel]
NewAgent = Callable[..., agents.Agent[Any]]


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int


@pytest.fixture(
    params=[agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel], ids=["chat", "responses"]
)
def api(request: pytest.FixtureRequest) -> Api:
    kind: Api = request.param
    return kind


@pytest.fixture
def asked() -> list[str]:
    """The cities that the agents' tool was asked about."""
    return []


@pytest.fixture
def weather(asked: list[str]) -> agents.FunctionTool:
    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        asked.append(city)
        return "sunny"

    return get_weather


@pytest.fixture
async def agent(service: Service, api: Api) -> AsyncIterator[NewAgent]:
    """A maker of greedy agents."""
    async with AsyncOpenAI(base_url=service.v1, api_key="none", max_retries=0) as client:

        def new_agent(**settings: Any) -> agents.Agent[Any]:
            settings.setdefault("model_settings", agents.ModelSettings(temperature=0))
            return agents.Agent(name="agent", model=api(model=MODEL, openai_client=client), **settings)

        yield new_agent


async def test_tool_loop(agent: NewAgent, weather: agents.FunctionTool, asked: list[str]) -> None:
    one = agent(tools=[weather])
    result = await agents.Runner.run(one, WEATHER, max_turns=MAX_TURNS, run_config=QUIET)
    assert asked == ["Paris"]
    assert "sunny" in result.final_output
    assert result.context_wrapper.usage.requests == 2
    assert result.context_wrapper.usage.output_tokens > 0


async def test_stream(agent: NewAgent, weather: agents.FunctionTool, asked: list[str]) -> None:
    one = agent(tools=[weather])
    result = agents.Runner.run_streamed(one, WEATHER, max_turns=MAX_TURNS, run_config=QUIET)
    text = ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            text += event.data.delta
    assert asked == ["Paris"]
    assert text.endswith(result.final_output)
    assert "sunny" in result.final_output


async def test_structured_output(agent: NewAgent) -> None:
    result = await agents.Runner.run(agent(output_type=Person), PERSON, run_config=QUIET)
    assert isinstance(result.final_output, Person)


async def test_structured_output_with_a_tool(
    agent: NewAgent, weather: agents.FunctionTool, asked: list[str]
) -> None:
    one = agent(tools=[weather], output_type=Person)
    # The demo model may ask again and again: it has not learnt to answer with a schema here.
    with contextlib.suppress(agents.MaxTurnsExceeded):
        await agents.Runner.run(one, WEATHER, max_turns=MAX_TURNS, run_config=QUIET)
    assert asked
    assert asked[0] == "Paris"


async def test_turns(agent: NewAgent, weather: agents.FunctionTool, asked: list[str]) -> None:
    one = agent(tools=[weather])
    first = await agents.Runner.run(one, WEATHER, max_turns=MAX_TURNS, run_config=QUIET)
    conversation: Any = [*first.to_input_list(), {"role": "user", "content": WEATHER}]
    second = await agents.Runner.run(one, conversation, max_turns=MAX_TURNS, run_config=QUIET)
    assert second.final_output
    assert asked[0] == "Paris"


async def test_forced_handoff(agent: NewAgent) -> None:
    adder = agent(handoff_description="Adds numbers").clone(name="adder")
    forced = agents.ModelSettings(temperature=0, tool_choice="transfer_to_adder")
    first = agent(handoffs=[adder], model_settings=forced)
    result = await agents.Runner.run(first, SUM, max_turns=MAX_TURNS, run_config=QUIET)
    assert result.last_agent.name == "adder"
    assert result.final_output
