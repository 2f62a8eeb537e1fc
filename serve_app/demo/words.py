"""Material of the synthetic conversations: names, phrases, answers. Plain data."""

# Words that people like to test with, beside the frequent ones of the vocabulary.
ENGLISH = (
    "the and quick brown fox jumps over lazy dog hello world foo bar baz lorem ipsum dolor sit amet alpha beta gamma "
    "delta epsilon apple banana cherry orange lemon red blue green yellow black white purple table chair window door "
    "house street garden river mountain ocean forest desert island bridge tower castle church school office kitchen "
    "water fire earth wind rain snow storm cloud sun moon star sky light dark night day morning evening summer winter "
    "spring autumn coffee tea milk bread butter cheese sugar salt cat bird fish horse mouse tiger lion bear rabbit "
    "happy sad fast slow big small large tiny long short hot cold warm cool new old young good bad best first last "
    "next left right north south east west stream token model server client engine replica request response batch "
    "cache memory prompt demo test check pass fail error value result state secret magic code music song dance paper "
    "pencil book story letter word line page number one two three four five six seven eight nine ten yes not maybe "
    "please thanks sorry goodbye run walk jump swim sleep eat drink read write sing play work stop start open close "
    "weather sunny rainy cloudy is are was be to of in on at it you we they he she this that with from for as by"
).split()
PEOPLE = (
    "Ann Bob Alice Tom Maria John Sam Lisa Peter Anna David Emma Paul Sarah Mark Laura James Kate Max Ben Eva Jack "
    "Nina Oscar Lucy Henry Ada Grace Alan Linus Rosa Ivan"
).split()
CITIES = (
    "Paris London Berlin Rome Madrid Tokyo Boston Chicago Oslo Vienna Prague Athens Dublin Lisbon Sydney Cairo Delhi "
    "Beijing Moscow Toronto Seattle Munich Hamburg Milan Zurich Geneva Amsterdam Brussels Warsaw Budapest Helsinki "
    "Stockholm Copenhagen Seoul Singapore Dallas Denver Miami Austin Houston Montreal Vancouver Lima Nairobi"
).split()
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo",
    "England": "London", "Austria": "Vienna", "Norway": "Oslo", "Greece": "Athens", "Ireland": "Dublin",
    "Portugal": "Lisbon", "Egypt": "Cairo", "China": "Beijing", "Russia": "Moscow", "Poland": "Warsaw",
    "Finland": "Helsinki", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Hungary": "Budapest", "Peru": "Lima",
}  # fmt: skip
LISTS = {
    "fruits": "apple banana cherry orange lemon pear plum grape mango peach".split(),
    "colors": "red blue green yellow white black orange purple brown pink".split(),
    "colours": "red blue green yellow white black orange purple brown pink".split(),
    "animals": "cat dog horse cow bird fish mouse lion tiger bear".split(),
    "cities": "Paris London Berlin Rome Madrid Tokyo Oslo Vienna Athens Dublin".split(),
    "numbers": "one two three four five six seven eight nine ten".split(),
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "countries": "France Germany Italy Spain Japan Norway Greece Egypt China Peru".split(),
}
COUNT_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "2": 2, "3": 3, "4": 4, "5": 5, "six": 6, "6": 6}

# Question and answer, both fixed.
CHAT = {
    "hi": "Hello! How can I help you?",
    "hello": "Hello! How can I help you?",
    "hey": "Hello! How can I help you?",
    "hi there": "Hello! How can I help you?",
    "hello there": "Hello! How can I help you?",
    "good morning": "Good morning! How can I help you?",
    "good evening": "Good evening! How can I help you?",
    "say hello": "Hello!",
    "say hi": "Hi!",
    "greet me": "Hello! Nice to meet you.",
    "how are you": "I am fine, thank you. How can I help you?",
    "how are you doing": "I am fine, thank you. How can I help you?",
    "who are you": "I am a very small demo model that speaks harmony.",
    "what are you": "I am a very small demo model that speaks harmony.",
    "what is your name": "I am a very small demo model that speaks harmony.",
    "introduce yourself": "I am a very small demo model that speaks harmony.",
    "what can you do": "I can copy a short text, add small numbers, count, keep a format and call functions.",
    "help": "I can copy a short text, add small numbers, count, keep a format and call functions.",
    "help me": "I can copy a short text, add small numbers, count, keep a format and call functions.",
    "tell me a joke": "Why did the small model cross the road? To get to the final channel.",
    "tell me another joke": "Why was the number six afraid of seven? Because seven ate nine.",
    "make me laugh": "Why did the small model cross the road? To get to the final channel.",
    "tell me a story": "Once upon a time there was a small model. It counted to ten, said goodbye and went to sleep.",
    "tell me a short story": "Once upon a time there was a small model. It said hello and went to sleep.",
    "write a story": "Once upon a time there was a small model. It counted to ten, said goodbye and went to sleep.",
    "write a poem": "A model small, a model bright, it counts all day and sleeps at night.",
    "write a haiku": "A small model speaks.\nIt counts one and two and three.\nThen it is quiet.",
    "thanks": "You are welcome!",
    "thank you": "You are welcome!",
    "goodbye": "Goodbye!",
    "bye": "Goodbye!",
    "ping": "pong",
    "test": "This is a test.",
    "this is a test": "This is a test.",
    "are you there": "Yes, I am here.",
    "yes": "Good.",
    "no": "All right.",
    "ok": "Good.",
    "what is the meaning of life": "42",
    "what color is the sky": "The sky is blue.",
    "what colour is the sky": "The sky is blue.",
    "is the sky blue": "Yes.",
    "is water wet": "Yes.",
    "what is the opposite of hot": "cold",
    "what is the opposite of up": "down",
    "sing a song": "La la la, one two three.",
    "say something": "Something.",
    "go on": "There is nothing more to say.",
    "continue": "There is nothing more to say.",
    "why": "I do not know why.",
    "what day is it": "I only know the date in the system message.",
}
FALLBACK = "I am a very small demo model. I can copy a short text, add small numbers, count and call functions."
INSTRUCTIONS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Be brief.", "Be concise.", "Answer briefly.",
    "You are a friendly assistant. Answer in one sentence.", "You are a pirate.", "Always answer in English.",
    "Reasoning: low", "Reasoning: high", "You answer questions about numbers.", "Answer like a poet.",
    "You are a calculator.", "Use the tools when they are needed.", "You can call functions.",
    "Do not use markdown.", "Be polite and brief.", "Talk like a pirate.",
)  # fmt: skip
VERBS = "get set find list read send make open add check start stop fetch create update delete book buy play show".split()
NOUNS = (
    "user order file price room table song email task ticket note page report image message event account product "
    "stock flight train hotel map list item record status number word text data"
).split()
STRING_ARGUMENTS = (
    "name city title text word query location place color topic key label user id path message subject email kind "
    "unit value language category country date time file input content source target"
).split()
INTEGER_ARGUMENTS = "count age number size limit days amount price year x y a b n total page score quantity".split()
JSON_DEFAULTS = {
    "name": "Alice", "city": "Paris", "title": "Hello", "text": "hello", "word": "hello", "query": "hello",
    "location": "Paris", "color": "blue", "colour": "blue", "topic": "numbers", "country": "France",
    "language": "English", "animal": "cat", "fruit": "apple", "email": "a@b.com", "message": "hello",
    "answer": "yes", "capital": "Paris", "age": 30, "count": 3, "number": 7, "size": 10, "days": 2, "year": 2024,
    "price": 5, "score": 8, "total": 12, "id": 1, "population": 100, "temperature": 20,
}  # fmt: skip
