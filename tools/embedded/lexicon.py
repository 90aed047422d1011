"""The words and facts that the generator composes conversations from. Data only, no logic."""

CAPITALS: dict[str, str] = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Turkey": "Ankara", "Greece": "Athens", "Japan": "Tokyo",
    "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Brazil": "Brasilia", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Serbia": "Belgrade", "Croatia": "Zagreb", "Ireland": "Dublin",
    "England": "London", "Scotland": "Edinburgh", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Russia": "Moscow", "Ukraine": "Kyiv", "India": "New Delhi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Iran": "Tehran", "Iraq": "Baghdad",
    "Syria": "Damascus", "Lebanon": "Beirut", "Morocco": "Rabat", "Tunisia": "Tunis",
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Mexico": "Mexico City",
    "Iceland": "Reykjavik", "Estonia": "Tallinn", "Latvia": "Riga", "Georgia": "Tbilisi",
}  # fmt: skip

NAMES = (
    "Ada", "Alan", "Grace", "Linus", "Maria", "Omar", "Elif", "Deniz", "Yusuf", "Zeynep", "Emre",
    "Anna", "Ben", "Clara", "David", "Eva", "Felix", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia",
    "Nora", "Oscar", "Paul", "Rosa", "Sam", "Tom", "Vera", "Will", "Zoe", "Ali", "Selin", "Murat",
    "Peter", "Lucy", "Simon", "Helen", "Carl",
)  # fmt: skip

COLOURS = (
    "red", "green", "blue", "yellow", "purple", "orange", "pink", "brown", "black", "white",
    "grey", "silver",
)  # fmt: skip

PETS = ("cat", "dog", "horse", "parrot", "rabbit", "hamster", "turtle", "goldfish")

PET_NAMES = ("Rex", "Luna", "Max", "Bella", "Coco", "Milo", "Daisy", "Pamuk", "Bruno", "Nala")

SPELLING_WORDS = (
    "cat", "dog", "sun", "moon", "star", "tree", "book", "fish", "bird", "hand", "door", "milk",
    "rain", "snow", "wind", "fire", "sand", "ship", "road", "lamp", "desk", "king", "frog", "bear",
    "wolf", "lion", "duck", "goat", "corn", "salt", "gold", "iron", "rock", "leaf", "seed", "wood",
    "apple", "bread", "house", "table", "chair", "horse", "mouse", "tiger", "zebra", "river",
    "ocean", "stone", "cloud", "light", "night", "green", "black", "white", "water", "plant",
    "grape", "lemon", "melon", "peach", "train", "plane", "truck", "wheel", "piano", "drum",
    "flute", "music", "dance", "paint", "brush", "paper", "pen", "cup", "fork", "knife", "spoon",
    "plate", "clock", "watch", "phone", "radio", "robot", "world", "earth", "hello", "smile",
    "heart", "dream", "magic", "sugar", "honey", "cheese", "butter", "garden", "flower", "winter",
    "summer", "spring", "silver", "planet", "rocket", "bridge", "castle", "forest", "island",
    "mirror", "window", "python", "llama", "worker", "token", "model", "ant", "bee", "cow", "hen",
    "pig", "rat", "fox", "owl", "bat", "egg", "ice", "jam", "key", "map", "net", "oil", "pot",
    "hat", "bag", "bus", "car", "box", "cap", "toy", "leg", "arm", "ear", "eye", "top", "web",
)  # fmt: skip

MARKER_WORDS = (
    "banana", "tiger", "coffee", "thunder", "pickle", "marble", "velvet", "cactus", "pepper",
    "walnut", "falcon", "ginger", "violet", "copper", "bamboo", "comet", "puzzle", "lantern",
    "saffron", "ribbon", "anchor", "cobalt", "meadow", "dragon", "muffin", "rocket", "pebble",
    "sunset", "turnip", "yogurt",
)  # fmt: skip

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("fast", "slow"),
    ("old", "new"), ("open", "closed"), ("happy", "sad"), ("light", "dark"), ("left", "right"),
    ("early", "late"), ("full", "empty"), ("hard", "soft"), ("high", "low"), ("long", "short"),
    ("wet", "dry"), ("rich", "poor"), ("true", "false"),
)  # fmt: skip

SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink",
    "lion": "roar", "frog": "ribbit", "bee": "buzz", "owl": "hoot",
}  # fmt: skip

THING_COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "a banana": "yellow", "coal": "black",
    "blood": "red", "a carrot": "orange", "chocolate": "brown",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

# Question(s) and their one answer. Small talk is learnt by heart, so it has no held-out part.
ENGLISH_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hello", "Hi!", "Hi", "Hey", "Hello there!", "Hi there!"),
     "Hello! How can I help you?"),
    (("Good morning!", "Good morning"), "Good morning! How can I help you?"),
    (("Good evening!", "Good evening"), "Good evening! How can I help you?"),
    (("Good night!", "Good night"), "Good night! Sleep well."),
    (("How are you?", "How are you today?", "How do you do?", "Are you well?"),
     "I am fine, thank you. How are you?"),
    (("Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!", "Thanks"),
     "You are welcome!"),
    (("Goodbye!", "Bye!", "See you later!", "Bye", "Goodbye"), "Goodbye! See you soon."),
    (("Who are you?", "What are you?", "Tell me who you are.", "Introduce yourself.",
      "Please introduce yourself.", "Who am I talking to?"),
     "I am the embedded model of worker-gguf."),
    (("What is your name?", "What are you called?", "Do you have a name?"),
     "My name is worker-gguf."),
    (("What can you do?", "How can you help me?", "What do you know?", "What are your skills?"),
     "I can name capitals, add small numbers, spell words backwards, call tools and tell a story."),
    (("Are you a human?", "Are you human?", "Are you a person?", "Are you a real person?"),
     "No, I am a tiny language model."),
    (("Are you a robot?", "Are you a computer?", "Are you a machine?"),
     "I am a tiny language model on a computer."),
    (("How big are you?", "What is your size?", "How large are you?"),
     "I am smaller than six megabytes."),
    (("Who made you?", "Who built you?", "Who trained you?"),
     "I was trained by the tools of worker-gguf."),
    (("How many experts do you have?", "How many experts are in you?"),
     "I have eight experts and use two at a time."),
    (("Do you speak Turkish?", "Can you speak Turkish?"), "Yes, I know a few Turkish greetings."),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "A joke, please."),
     "Why did the llama cross the road? To reach the next token."),
)  # fmt: skip

TURKISH_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Merhaba!", "Merhaba", "merhaba"), "Merhaba! Size nasıl yardımcı olabilirim?"),
    (("Selam!", "Selam", "selam"), "Selam! Nasılsın?"),
    (("Günaydın!", "Günaydın", "günaydın"), "Günaydın! Güzel bir gün olsun."),
    (("İyi akşamlar!", "İyi akşamlar", "iyi akşamlar"), "İyi akşamlar! Hoş geldin."),
    (("İyi geceler!", "İyi geceler", "iyi geceler"), "İyi geceler! Tatlı rüyalar."),
    (("Nasılsın?", "Nasılsın", "nasılsın?", "Nasılsın bugün?"),
     "İyiyim, teşekkür ederim. Sen nasılsın?"),
    (("Nasılsınız?", "Nasılsınız", "nasılsınız?"), "İyiyim, teşekkür ederim. Siz nasılsınız?"),
    (("Teşekkürler!", "Teşekkürler", "teşekkürler", "Teşekkür ederim.", "Çok teşekkürler!"),
     "Rica ederim!"),
    (("Hoşça kal!", "Hoşça kal", "hoşça kal"), "Güle güle! Görüşmek üzere."),
    (("Görüşürüz!", "Görüşürüz", "görüşürüz"), "Görüşürüz! Kendine iyi bak."),
    (("Adın ne?", "Senin adın ne?", "adın ne?"), "Benim adım worker-gguf."),
    (("Kimsin?", "Sen kimsin?", "sen kimsin?"), "Ben worker-gguf içindeki küçük modelim."),
    (("Türkçe biliyor musun?", "Türkçe konuşuyor musun?"), "Evet, biraz Türkçe biliyorum."),
    (("Hoş geldin!", "Hoş geldin", "hoş geldin"), "Hoş bulduk!"),
    (("Afiyet olsun!", "Afiyet olsun"), "Teşekkür ederim!"),
    (("Türkiye'nin başkenti neresi?", "Türkiye'nin başkenti neresidir?"),
     "Türkiye'nin başkenti Ankara."),
)  # fmt: skip

# Subjects that the model does not know: it learns to say so instead of guessing.
UNKNOWN_SUBJECTS = (
    "quantum physics", "the stock market", "my homework", "the French revolution", "black holes",
    "gardening", "old cars", "football", "chess openings", "the human brain", "Roman law",
    "volcanoes", "cooking rice", "jazz", "cheap flights", "dinosaurs", "the moon landing",
    "philosophy", "my taxes", "deep learning", "whales", "poetry", "bicycles", "the weather on Mars",
    "medieval castles", "my knee", "bread baking", "the history of tea", "electric guitars",
)  # fmt: skip
UNKNOWN_QUESTIONS = (
    "Explain {x}.", "Tell me about {x}.", "What do you think about {x}?", "Write a poem about {x}.",
    "Can you help me with {x}?", "How does one learn about {x}?", "Write an essay about {x}.",
    "Give me three facts about {x}.", "Why is {x} important?", "Summarise {x} for me.",
)  # fmt: skip
UNKNOWN_ANSWER = "I am only a tiny model and do not know that."
