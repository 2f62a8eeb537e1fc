"""Tasks that offer functions: a call when one is asked for, a plain answer when none is, a quote of its
result.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from serve_app.demo import words
from serve_app.demo.tasks import Task, Vocabulary, phrase


@dataclass(frozen=True)
class Function:
    """A function as an API client would offer it; `asked` are natural requests for it, with argument names in
    braces.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    asked: tuple[str, ...] = ()


def _property(rng: random.Random, name: str, described: float) -> dict[str, Any]:
    kind = rng.choice(["integer", "number"]) if name in words.INTEGER_ARGUMENTS else "string"
    entry: dict[str, Any] = {"type": kind}
    if rng.random() < described:
        entry["description"] = rng.choice([f"The {name}", f"{name.capitalize()} to use", f"the {name}", name])
    return entry


def _schema(rng: random.Random, names: list[str], optional: dict[str, Any]) -> dict[str, Any]:
    described = rng.choice([0.0, 0.5, 1.0])
    properties = {name: _property(rng, name, described) for name in names} | optional
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.8:
        schema["required"] = names
    if rng.random() < 0.15:
        schema["additionalProperties"] = False
    return schema


def invented(rng: random.Random, vocabulary: Vocabulary) -> Function:
    """A function nobody has seen before."""
    first = rng.choice(words.VERBS) if rng.random() < 0.8 else rng.choice(vocabulary.known)
    second = rng.choice(words.NOUNS) if rng.random() < 0.8 else rng.choice(vocabulary.known)
    name = rng.choice([f"{first}_{second}", f"{first}_{second}", f"{first}{second.capitalize()}", first])
    described = rng.choice(["", f"{first.capitalize()} a {second}", f"{first.capitalize()} the {second}."])
    pool = words.STRING_ARGUMENTS + words.INTEGER_ARGUMENTS
    count = rng.choice([0, 1, 1, 1, 2, 2, 3])
    return Function(name, described, _schema(rng, rng.sample(pool, count), {}))


def natural(rng: random.Random, vocabulary: Vocabulary) -> Function:
    """One of the functions that examples everywhere use."""
    del vocabulary
    draw = rng.random()
    if draw < 0.5:
        place = rng.choice(["city", "location", "place"])
        unit = {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}} if rng.random() < 0.4 else {}
        return Function(
            rng.choice(["get_weather", "get_current_weather", "weather", "get_weather"]),
            rng.choice(
                [
                    "Get the weather",
                    "Get the current weather in a given location",
                    "Get weather for a city",
                    "Get the current weather",
                    "Current weather",
                    "",
                ]
            ),
            _schema(rng, [place], unit),
            (
                "What is the weather in {%s}?",
                "What's the weather in {%s}?",
                "How is the weather in {%s}?",
                "What is the weather like in {%s} today?",
                "weather in {%s}",
                "Tell me the weather in {%s}.",
                "Is it raining in {%s}?",
                "What's the weather like in {%s}?",
                "Use the tool: weather in {%s}.",
            ),
        )
    if draw < 0.65:
        place = rng.choice(["city", "location", "place"])
        return Function(
            rng.choice(["get_time", "get_current_time", "current_time"]),
            rng.choice(["Get the time in a city", "Current time", "Get the current time", ""]),
            _schema(rng, [place], {}),
            ("What time is it in {%s}?", "What is the time in {%s}?", "time in {%s}"),
        )
    if draw < 0.83:
        left, right = rng.choice([("a", "b"), ("x", "y")])
        return Function(
            rng.choice(["add", "add_numbers", "calculate_sum", "sum"]),
            rng.choice(["Add two numbers", "Adds two integers", "Sum of two numbers", ""]),
            _schema(rng, [left, right], {}),
            tuple(
                text.replace("A", "{" + left + "}").replace("B", "{" + right + "}")
                for text in (
                    "use the tool to add A and B",
                    "use a function to add A and B",
                    "with the tool, sum A and B",
                )
            ),
        )
    query = rng.choice(["query", "text", "topic"])
    return Function(
        rng.choice(["search", "web_search", "lookup", "find"]),
        rng.choice(["Search the web", "Search for a text", "Look something up", ""]),
        _schema(rng, [query], {}),
        ("Search for {%s}", "Look up {%s}", "Find {%s}", "search: {%s}", "Search the web for {%s}"),
    )


def _required(function: Function) -> list[str]:
    return [name for name, entry in function.parameters["properties"].items() if "enum" not in entry]


def _arguments(rng: random.Random, vocabulary: Vocabulary, function: Function) -> dict[str, str | int]:
    values: dict[str, str | int] = {}
    for name in _required(function):
        if function.parameters["properties"][name]["type"] != "string":
            values[name] = rng.randint(0, rng.choice([9, 99, 999]))
        elif name in ("city", "location", "place") and rng.random() < 0.85:
            values[name] = rng.choice(words.CITIES)
        elif name in ("name", "user") and rng.random() < 0.6:
            values[name] = rng.choice(words.PEOPLE)
        else:
            values[name] = phrase(rng, vocabulary, rng.choice([1, 1, 2, 4])).rstrip(",.!?:;")
    return values


def request(rng: random.Random, vocabulary: Vocabulary, function: Function) -> Task:
    """Someone asks for `function`."""
    values = _arguments(rng, vocabulary, function)
    if function.asked and rng.random() < 0.75:
        form = rng.choice(function.asked)
        user = form % _required(function)[0] if "%s" in form else form
        user = user.format(**values)
    else:
        link = rng.choice(["{k} set to {v}", "{k} = {v}", "{k}: {v}", "{k} {v}", '{k} "{v}"'])
        pairs = [link.format(k=key, v=value) for key, value in values.items()]
        listed = " and ".join(pairs) if len(pairs) < 3 else ", ".join(pairs)
        user = rng.choice(
            [
                "Call {} with {}.",
                "Use the {} tool with {}.",
                "Use {} with {}",
                "Please call the function {} with {}.",
                "Run {} with {}.",
                "Call the {} function with {}.",
                "Use the tool {}. {}",
            ]
        ).format(function.name, listed or rng.choice(["no arguments", "nothing"]))
        if not values and rng.random() < 0.7:
            user = rng.choice(["Call {}.", "Use the {} tool.", "Please call {}.", "Run {}"]).format(
                function.name
            )
    names = ", ".join(values) or "none"
    return Task(
        "call",
        user,
        f"I call {function.name}. Arguments: {names}.",
        f"The user wants something that a function can do. The function is {function.name}. "
        f"Its arguments: {names}. I take the values from the message. "
        "I do not answer myself. I will call the function now.",
        json.dumps(values),
        call=function.name,
    )


def result_text(rng: random.Random, vocabulary: Vocabulary) -> str:
    """What a function may return."""
    draw = rng.random()
    if draw < 0.4:
        return phrase(rng, vocabulary, rng.choice([1, 3, 8, 16]))
    if draw < 0.6:
        return f"{rng.randint(0, 40)}{rng.choice([' C', ' degrees', ' F', '', ' degrees and sunny', '°C'])}"
    keys = rng.sample(
        ["temperature", "unit", "result", "status", "city", "weather", "value", "name", "time"],
        rng.randint(1, 3),
    )
    value = {
        key: rng.randint(0, 99)
        if key in ("temperature", "result", "value")
        else rng.choice([*vocabulary.known, "sunny", "ok"])
        for key in keys
    }
    return json.dumps(value) if rng.random() < 0.7 else json.dumps(value, separators=(",", ":"))


def quote(result: str) -> Task:
    """The final answer once a function has returned; user text and function are the caller's."""
    return Task(
        "result",
        "",
        "The function gave a result. I tell it.",
        "The function has returned. I have what the user asked for. I do not need another call. "
        "I will tell the user the result just as it is.",
        f"The tool says: {result}",
    )
