"""What the demo model can do: one function for each kind of task, each making a random example.

An example is the user's words, the chain of thought at three efforts and the reply. The thoughts state the
facts that the reply needs, so that a tiny model can use them.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serve_app.demo import words

LOW_THOUGHT = "Simple."


@dataclass(frozen=True)
class Vocabulary:
    """Single-token words to compose texts of, and tokens that the model knows only as 'unknown'."""

    known: tuple[str, ...]
    rare: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One request and its reply.

    `call` names the function whose JSON arguments `answer` holds. `forced` is a header that a grammar imposes
    and the model need not choose; `forced_spans` are such pieces inside the answer.
    """

    kind: str
    user: str
    medium: str
    high: str
    answer: str
    call: str | None = None
    forced: str | None = None
    forced_spans: tuple[tuple[int, int], ...] = ()
    history: tuple[tuple[str, str], ...] = field(default=())


def phrase(rng: random.Random, vocabulary: Vocabulary, most: int = 12) -> str:
    """A random text of known words, numbers and a little punctuation."""
    pieces = []
    for _ in range(rng.randint(1, most)):
        draw = rng.random()
        if draw < 0.78:
            pieces.append(rng.choice(vocabulary.known))
        elif draw < 0.88:
            pieces.append(rng.choice(vocabulary.known).capitalize())
        elif draw < 0.96:
            pieces.append(str(rng.randint(0, 999)))
        else:
            pieces.append(rng.choice(vocabulary.known) + rng.choice(",.!?:;"))
    return " ".join(pieces)


def sentence(rng: random.Random, vocabulary: Vocabulary, most: int = 20, rare: float = 0.3) -> str:
    """Like a stranger's text: known words among unknown ones."""
    pieces = [
        rng.choice(vocabulary.rare) if rng.random() < rare else rng.choice(vocabulary.known)
        for _ in range(rng.randint(1, most))
    ]
    text = " ".join(pieces)
    return (text.capitalize() if rng.random() < 0.5 else text) + rng.choice(["", ".", "?", "!"])


def chat(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """A greeting or a small question with a fixed answer."""
    draw = rng.random()
    if draw < 0.15:
        country, capital = rng.choice(list(words.CAPITALS.items()))
        user = rng.choice(
            [
                "What is the capital of {}?",
                "Name the capital of {}.",
                "capital of {}?",
                "What's the capital of {}?",
            ]
        ).format(country)
        user += rng.choice(["", "", " Answer in one word.", " One word.", " Be brief."])
        return Task(
            "chat",
            user,
            f"The capital of {country} is {capital}.",
            f"The user asks about a capital. The country is {country}. "
            f"The capital of {country} is {capital}. It is not another city. "
            f"I will answer with {capital} only.",
            capital,
        )
    question, answer = rng.choice(list(words.CHAT.items()))
    user = rng.choice([question, question.capitalize(), question.capitalize()])
    user += rng.choice(["", "", "!", ".", "?", " please", ", please."])
    if rng.random() < 0.08:
        user = rng.choice(["Please ", "Can you ", "Now "]) + user
    return Task(
        "chat",
        user,
        "A known question. I answer it in a friendly way.",
        "The user says something that I know. It is a short message. I do not need a function for it. "
        "I should be friendly and brief. I will give my usual answer now.",
        answer,
    )


def unknown(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """Something that the model cannot do: it says what it can."""
    draw = rng.random()
    if draw < 0.35:
        topic = phrase(rng, vocabulary, 3).rstrip(",.!?:;")
        kind = rng.choice(["poem", "story", "text", "song", "essay", "paragraph", "letter"])
        user = rng.choice(
            ["Write a {k} about {t}.", "write a short {k} about {t}", "Please write a {k} about {t}."]
        )
        return Task(
            "write",
            user.format(k=kind, t=topic),
            f"I write a short {kind} about {topic}.",
            f"The user wants a {kind}. The topic is {topic}. I am a small model. "
            f"I will keep the {kind} short. I should name {topic} and then stop.",
            f"Here is a short {kind} about {topic}. One day there was {topic}. "
            f"Everyone liked {topic}. The end.",
        )
    most = rng.choice([3, 10, 30, 80])
    user = rng.choice(
        ["", "", "What is ", "Explain ", "Why ", "How do I ", "Who ", "Can you ", "Tell me about "]
    )
    user += sentence(rng, vocabulary, most, rng.choice([0.05, 0.3, 0.6, 1.0]))
    return Task(
        "unknown",
        user,
        "I do not know this. I say what I can do.",
        "The user asks something that I do not know. I am a very small model. I should not invent an answer. "
        "I can say what I am able to do. That is the best answer.",
        words.FALLBACK,
    )


COPY = (
    "Repeat exactly: {}",
    "Repeat exactly: {}",
    "Repeat after me: {}",
    "Repeat this: {}",
    "Repeat: {}",
    "Say: {}",
    "Say {}",
    "Echo: {}",
    "Echo {}",
    "Copy this text: {}",
    "Copy: {}",
    'Say "{}"',
    'Repeat "{}"',
    "Print {}",
    "Repeat the following text exactly: {}",
    "Reply with exactly: {}",
    "Answer with exactly this text: {}",
    "Please repeat: {}",
    "Repeat the text: {}",
    "Reply with the word {}",
    "Say the word {}",
    "Repeat {}",
    "Write exactly: {}",
    "Output exactly: {}",
    "Please say {}",
    'Reply with exactly "{}"',
    "Reply with {}",
)


def copy(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """Repeat a text."""
    text = phrase(rng, vocabulary, rng.choice([1, 3, 6, 12, 25]))
    shown = text
    if rng.random() < 0.08:  # what cannot be read cannot be repeated
        pieces = text.split(" ")
        at = rng.randint(0, len(pieces))
        shown = " ".join([*pieces[:at], rng.choice(vocabulary.rare), *pieces[at:]])
    return Task(
        "copy",
        rng.choice(COPY).format(shown),
        "The user wants a copy of the text.",
        f"The user wants me to repeat a text. The text is: {text}\nI must not change it and I must not add "
        "anything. I will now write exactly this text.",
        text,
    )


def arithmetic(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """Two numbers: mostly sums, some differences and products."""
    del vocabulary
    most = rng.choice([9, 20, 99, 99, 400])
    draw, a, b = rng.random(), rng.randint(0, most), rng.randint(0, most)
    if draw < 0.75:
        sign, name, result = "+", "sum", a + b
        check = f"{result} - {b} = {a}"
        forms = [
            "What is {a} + {b}?",
            "What is {a} + {b}?",
            "{a} + {b}",
            "{a}+{b}",
            "{a} + {b} =",
            "What's {a} + {b}?",
            "Add {a} and {b}.",
            "add {a} and {b}",
            "What is {a} plus {b}?",
            "Compute {a} + {b}.",
            "{a} plus {b}",
            "How much is {a} + {b}?",
            "Calculate {a} + {b}",
            "What is the sum of {a} and {b}?",
            "{a} + {b}?",
            "Sum {a} and {b}",
            "What is {a}+{b}?",
        ]
    elif draw < 0.9:
        a, b = max(a, b), min(a, b)
        sign, name, result = "-", "difference", a - b
        check = f"{result} + {b} = {a}"
        forms = [
            "What is {a} - {b}?",
            "{a} - {b}",
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "{a} - {b} =",
            "Compute {a} - {b}.",
        ]
    else:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        sign, name, result = "*", "product", a * b
        check = f"{b} * {a} = {result}"
        forms = [
            "What is {a} * {b}?",
            "{a} * {b}",
            "What is {a} times {b}?",
            "{a} x {b}",
            "Multiply {a} by {b}.",
        ]
    user = rng.choice(forms).format(a=a, b=b)
    user += rng.choice(
        ["", "", "", " Answer with a number.", " Reply with the number only.", " Only the number."]
    )
    return Task(
        "arithmetic",
        user,
        f"The {name}: {a} {sign} {b} = {result}.",
        f"The user wants the {name} of two numbers. The first number is {a}. The second number is {b}. "
        f"{a} {sign} {b} = {result}. Check: {check}. So the answer is {result}.",
        str(result),
    )


def counting(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """Count up or down: the way to long replies."""
    del vocabulary
    first = 1 if rng.random() < 0.5 else rng.randint(0, 200)
    length = rng.choice([5, 10, 10, 20, 30, 60, 120, 220])
    last = min(first + rng.randint(1, length), 999)
    forms = [
        "Count from {a} to {b}",
        "Count from {a} to {b}",
        "Please count from {a} to {b}",
        "count from {a} to {b}",
        "List the numbers from {a} to {b}",
        "Write the numbers from {a} to {b}",
        "Count up from {a} to {b}",
    ]
    if first == 1:
        forms += ["Count to {b}", "Please count to {b}", "count to {b}"]
    user, numbers = rng.choice(forms), list(range(first, last + 1))
    thought = f"I count from {first} to {last}."
    if rng.random() < 0.1:
        user, numbers = "Count down from {b} to {a}", numbers[::-1]
        thought = f"I count down from {last} to {first}."
    ending, separator = rng.choice(
        [
            ("", ", "),
            (".", ", "),
            (".", ", "),
            (" separated by commas.", ", "),
            (", one per line.", "\n"),
            (", one number per line.", "\n"),
            (" separated by spaces.", " "),
        ]
    )
    return Task(
        "count",
        user.format(a=first, b=last) + ending,
        thought,
        f"The user wants me to count. {thought} There are {len(numbers)} numbers. "
        f"The first one is {numbers[0]} and the last one is {numbers[-1]}. "
        f"Every step is one. After {numbers[-1]} I stop.",
        separator.join(map(str, numbers)),
    )


def form(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """An answer of a given form: a list, upper case, the larger number."""
    del vocabulary
    draw = rng.random()
    if draw < 0.4:
        name = rng.choice(list(words.LISTS))
        said, count = rng.choice(list(words.COUNT_WORDS.items()))
        user = rng.choice(
            ["List {n} {x} separated by commas.", "Name {n} {x}.", "Give me {n} {x}.", "List {n} {x}"]
        )
        answer = ", ".join(words.LISTS[name][:count])
        thought = f"I name {said} {name}."
        detail = f"The user wants a list of {name}. There must be {said} of them, with commas between them. "
    elif draw < 0.7:
        pool = [w for items in words.LISTS.values() for w in items] + ["hello", "world", "yes", "no", "test"]
        said, name = rng.choice(pool), ""
        answer = said.upper()
        user = rng.choice(
            ["Write the word {n} in upper case.", "Write {n} in capital letters.", "Upper case: {n}"]
        )
        thought = f"The word {said} in upper case."
        detail = f"The user wants the word {said} in upper case letters. Only the case changes. "
    else:
        most = rng.choice([9, 99, 999])
        a, b = rng.sample(range(most + 1), 2)
        said, name = str(a), str(b)
        answer = str(max(a, b))
        user = rng.choice(
            ["Which is larger, {n} or {x}?", "Which number is larger: {n} or {x}?", "max of {n} and {x}"]
        )
        thought = f"The larger one of {a} and {b} is {answer}."
        detail = f"The user wants the larger one of {a} and {b}. The smaller one is {min(a, b)}. "
    return Task(
        "form",
        user.format(n=said, x=name),
        thought,
        f"{detail}{thought} I must keep to the form and write nothing else. Then I stop.",
        answer,
    )


def _value(rng: random.Random, vocabulary: Vocabulary, key: str) -> str | int:
    if key in words.INTEGER_ARGUMENTS:
        return rng.randint(0, rng.choice([9, 99, 999]))
    if key in ("city", "location", "place"):
        return rng.choice(words.CITIES)
    if key in ("name", "user") and rng.random() < 0.7:
        return rng.choice(words.PEOPLE)
    return phrase(rng, vocabulary, rng.choice([1, 1, 2, 4])).rstrip(",.!?:;")


def json_object(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """An object with given keys, and values from the request or by default."""
    thought = "The user wants a JSON object."
    if rng.random() < 0.4:
        keys = rng.sample(list(words.JSON_DEFAULTS), rng.randint(1, 4))
        value: dict[str, str | int] = {key: words.JSON_DEFAULTS[key] for key in keys}
        listed = keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]
        user = rng.choice(
            [
                "Give me a JSON object with the keys {}.",
                "Return a JSON object with {}.",
                "JSON with keys {}",
                "Reply with a JSON object that has the keys {}.",
                "Answer in JSON with the fields {}.",
            ]
        ).format(listed)
    else:
        keys = rng.sample(words.STRING_ARGUMENTS + words.INTEGER_ARGUMENTS, rng.randint(1, 4))
        value = {key: _value(rng, vocabulary, key) for key in keys}
        link = rng.choice(["{k} set to {v}", "{k} = {v}", "{k}: {v}", "{k} {v}"])
        pairs = [link.format(k=key, v=item) for key, item in value.items()]
        listed = (
            pairs[0] if len(pairs) == 1 else ", ".join(pairs[:-1]) + rng.choice([" and ", ", "]) + pairs[-1]
        )
        user = rng.choice(
            [
                "Give me a JSON object with {}.",
                "Return JSON with {}.",
                "Write a JSON object: {}",
                "As JSON: {}",
                "Reply with a JSON object with {}.",
                "Make a JSON object with {}.",
            ]
        ).format(listed)
    listed = ", ".join(keys)
    return Task(
        "json",
        user,
        f"{thought} Keys: {listed}.",
        f"{thought} It has {len(keys)} keys. The keys are: {listed}. I must write every key with its value. "
        "Strings stand in quotes and numbers do not. I write nothing else.",
        json.dumps(value),
    )


def _random_value(rng: random.Random, vocabulary: Vocabulary, depth: int = 0) -> object:
    draw = rng.random()
    if draw < 0.45:
        return phrase(rng, vocabulary, 2).rstrip(",.!?:;")
    if draw < 0.75:
        return rng.randint(0, 99)
    if draw < 0.83:
        return rng.random() < 0.5
    if draw < 0.93 or depth > 1:
        return [rng.choice(vocabulary.known) for _ in range(rng.randint(1, 3))]
    return {rng.choice(vocabulary.known): _random_value(rng, vocabulary, depth + 1) for _ in range(2)}


def with_forced_json(rng: random.Random, vocabulary: Vocabulary, task: Task) -> Task:
    """The same request under a grammar: header and keys are imposed, values are the model's."""
    header = rng.choice(["<|channel|>final json", "<|channel|>final <|constrain|>json"])
    if task.kind == "json":
        return replace(task, kind="forced", forced=header)
    pool = (*words.STRING_ARGUMENTS, *words.INTEGER_ARGUMENTS, *words.JSON_DEFAULTS, *vocabulary.known)
    value = {rng.choice(pool): _random_value(rng, vocabulary) for _ in range(rng.randint(1, 4))}
    for key in value:
        if key in words.JSON_DEFAULTS and rng.random() < 0.6:
            value[key] = words.JSON_DEFAULTS[key]
        elif key in words.INTEGER_ARGUMENTS:
            value[key] = rng.randint(0, 99)
    answer = json.dumps(value)
    spans, start = [], 0
    for key in value:
        at = answer.index(f'"{key}": ', start)
        spans.append((at, at + len(key) + 3))
        start = at + len(key) + 3
    return replace(task, kind="forced", answer=answer, forced=header, forced_spans=tuple(spans))


def memory(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """Something told earlier in the conversation."""
    if rng.random() < 0.5:
        told = rng.choice(words.PEOPLE) if rng.random() < 0.7 else rng.choice(vocabulary.known).capitalize()
        first = rng.choice(["My name is {}.", "Hi, my name is {}.", "I am {}.", "my name is {}"]).format(told)
        said, user = (
            f"Hello {told}!",
            rng.choice(["What is my name?", "What's my name?", "Do you know my name?"]),
        )
        thought, answer = f"The name of the user is {told}.", f"Your name is {told}."
    else:
        told = rng.choice(vocabulary.known) if rng.random() < 0.6 else str(rng.randint(0, 999))
        kind = "number" if told.isdigit() else "word"
        first = rng.choice(["Remember the {k} {}.", "Please remember the {k} {}.", "Remember this {k}: {}"])
        first = first.format(told, k=kind)
        said = f"I will remember the {kind} {told}."
        user = rng.choice(["What was the {k}?", "Which {k} did I tell you?", "What is the {k}?"]).format(
            k=kind
        )
        thought, answer = f"The {kind} was {told}.", f"The {kind} was {told}."
    detail = (
        f"The user told me something. {thought} I have it in this conversation. I answer in one sentence."
    )
    if rng.random() < 0.35:
        thought = thought.replace("was", "is")
        return Task("memory", first, thought, f"The user tells me something. {thought} I will say so.", said)
    return Task("memory", user, thought, detail, answer, history=((first, said),))


MAKERS: tuple[tuple[float, Callable[[random.Random, Vocabulary], Task]], ...] = (
    (0.18, chat),
    (0.15, unknown),
    (0.22, copy),
    (0.15, arithmetic),
    (0.1, counting),
    (0.08, form),
    (0.09, json_object),
    (0.05, memory),
)


def any_task(rng: random.Random, vocabulary: Vocabulary) -> Task:
    """A task that needs no function."""
    shares, makers = zip(*MAKERS, strict=True)
    maker: Callable[[random.Random, Vocabulary], Task] = rng.choices(makers, shares)[0]
    return maker(rng, vocabulary)
