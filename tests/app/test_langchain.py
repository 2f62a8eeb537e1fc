"""LangChain's own suite for chat models, with langchain-openai, over Chat Completions and over Responses."""

from __future__ import annotations

from typing import Any, cast

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.services import MODEL, Service

pytestmark = [
    pytest.mark.app,
    # LangChain's packages deprecate parts of each other, and not every test of the suite is a coroutine.
    pytest.mark.filterwarnings("ignore"),
    # langchain-openai keeps its connections from one coroutine to the next.
    pytest.mark.asyncio(loop_scope="module"),
]

# What fails only because the demo model answers poorly.
POOR = {
    "test_tool_calling": "calls magic_function with another number than the question's",
    "test_tool_calling_async": "as test_tool_calling",
    "test_json_mode": "makes up keys, which json_object leaves to the model",
    "test_unicode_tool_call_integration": "cannot copy Chinese and Japanese",
}


@pytest.fixture
def vcr() -> None:
    """For a measurement with recorded requests, which the suite leaves out by default."""
    pytest.skip("nothing is recorded")


@pytest.fixture
def benchmark() -> None:
    """See `vcr`."""


class ServiceTests(ChatModelIntegrationTests):
    """The suite, against the running service."""

    url: str
    use_responses_api: bool

    @pytest.fixture(autouse=True)
    def _service(self, service: Service, request: pytest.FixtureRequest) -> None:
        self.url = service.v1
        function = cast("pytest.Function", request.node)
        if reason := POOR.get(function.originalname):
            function.add_marker(pytest.mark.xfail(reason=f"the demo model: {reason}", strict=False))

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": self.url,
            "api_key": "none",
            "use_responses_api": self.use_responses_api,
            "temperature": 0,
            "max_retries": 0,
            # The package asks for it by itself only where it knows the address.
            "stream_usage": True,
        }

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # Its 100 tokens are few for a model that thinks first.
        return {**super().standard_chat_model_params, "max_tokens": 400, "max_retries": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL

    @property
    def supported_usage_metadata_details(self) -> Any:
        kinds = ["reasoning_output", "cache_read_input"]
        return {"invoke": kinds, "stream": kinds}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        """What the suite asks for as an answer with a chain of thought."""
        return self._ask("What is 2 + 3?", stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        """What the suite asks for as an answer whose prompt was in the cache."""
        # Of two engines the second request finds the one that had the first.
        text = "Repeat exactly: " + "apple tree house " * 200
        self._ask(text, stream)
        return self._ask(text, stream)

    def _ask(self, text: str, stream: bool) -> AIMessage:
        model = ChatOpenAI(**{**self.chat_model_params, "max_tokens": 50})
        if not stream:
            return model.invoke(text)
        whole: Any = None
        for chunk in model.stream(text):
            whole = chunk if whole is None else whole + chunk
        return cast("AIMessage", whole)


class TestChatCompletions(ServiceTests):
    use_responses_api = False


class TestResponses(ServiceTests):
    use_responses_api = True
