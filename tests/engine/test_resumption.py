"""An answer that is cut off goes on as if it had not been, whatever was asked for: vLLM's engine on a CPU."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from tests.resumptions import CASES, COUNT, MAX_TOKENS, Case, Harness, check

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio(loop_scope="package"),
]


@pytest.mark.parametrize("name", CASES)
async def test_the_answer_is_that_of_an_unbroken_run(harness: Harness, name: str) -> None:
    await check(harness, CASES[name], random.Random(name))


async def test_what_is_kept_of_the_answer_may_be_more_than_the_prompt(harness: Harness) -> None:
    case = CASES["long"]
    prompt = harness.renderer.render(case.conversation)
    whole = await harness.answer(prompt, case.params(), [], "kept long")
    for cut in (295, 299):
        for salt in ("kept long", "new"):
            resumed = await harness.answer(prompt, case.params(), whole.token_ids[:cut], salt)
            assert resumed[:3] == whole[:3]


async def test_an_answer_goes_on_after_preemption(harness: Harness) -> None:
    """vLLM takes it for one that has generated all its tokens itself."""
    case = CASES["frequency"]
    prompt = harness.renderer.render(case.conversation)
    whole = await harness.answer(prompt, case.params(), [])
    resumed = asyncio.create_task(harness.answer(prompt, case.params(), whole.token_ids[:5]))
    await harness.first_output()
    await harness.engine.llm.reset_prefix_cache(reset_running_requests=True)
    assert (await resumed)[:3] == whole[:3]


async def test_many_at_once(harness: Harness) -> None:
    """Beside others a near-tie may be decided otherwise; limits and grammars hold."""
    chosen = {name: CASES[name] for name in ("greedy", "min_tokens", "json_schema", "choice", "tool")}
    prompts = {name: harness.renderer.render(case.conversation) for name, case in chosen.items()}
    wholes = dict(
        zip(
            chosen,
            await asyncio.gather(
                *(harness.answer(prompts[name], case.params(), []) for name, case in chosen.items())
            ),
            strict=True,
        )
    )
    resumed = await asyncio.gather(
        *(
            harness.answer(prompts[name], case.params(), wholes[name].token_ids[:cut])
            for name, case in chosen.items()
            for cut in (0, len(wholes[name].token_ids) // 2)
        )
    )
    for (name, cut), answer in zip(((name, cut) for name in chosen for cut in (0, 1)), resumed, strict=True):
        whole = wholes[name]
        assert len(answer.token_ids) <= MAX_TOKENS
        assert answer.finish_reason in (0, 1), (name, cut)
        if name == "min_tokens":
            assert len(answer.token_ids) >= 40
        if name == "json_schema" and answer.finish_reason == 0:
            json.loads(harness.text(answer.token_ids).rpartition("<|message|>")[2].partition("<|")[0])
        assert (
            cut == 0
            or answer.token_ids[: len(whole.token_ids) // 2] == whole.token_ids[: len(whole.token_ids) // 2]
        )


async def test_a_seed_begins_anew(harness: Harness) -> None:
    """The rest of the answer is another sample; its limits are those of the whole."""
    case = Case(COUNT, {"temperature": 1.0, "seed": 3, "ignore_eos": True, "max_tokens": 30})
    prompt = harness.renderer.render(case.conversation)
    whole = await harness.answer(prompt, case.params(), [])
    resumed = await harness.answer(prompt, case.params(), whole.token_ids[:20])
    assert resumed == await harness.answer(prompt, case.params(), whole.token_ids[:20])
    assert (len(resumed.token_ids), resumed.finish_reason) == (30, whole.finish_reason)


@pytest.mark.parametrize(("num_tokens", "max_tokens"), [(MAX_TOKENS, MAX_TOKENS), (2045, 4096)])
async def test_what_has_no_room_is_refused(harness: Harness, num_tokens: int, max_tokens: int) -> None:
    from vllm.exceptions import VLLMClientError

    case = Case(COUNT, {"max_tokens": max_tokens})
    with pytest.raises((VLLMClientError, ValueError), match="tokens"):
        await harness.answer([1, 2, 3], case.params(), [5] * num_tokens)
