"""Two hundred texts in ten languages, from 1 to about 40 words, put together from lists of words."""

from __future__ import annotations

import random

__all__ = ["LANGUAGES", "N_EACH", "texts"]

LANGUAGES = {
    "English": (
        "the river runs slowly past an old mill while children throw stones and count how often they jump before dusk "
        "bread price of wheat rose again this spring because rain came late engineers measured pressure in every pipe"
    ),
    "German": (
        "der Zug fährt heute später ab weil Schnee auf den Gleisen liegt und niemand wußte wohin die Schaufeln kamen "
        "größere Häuser brauchen mehr Öl im Winter daher prüft man Fenster Türen Dächer jedes Jahr über Ostern"
    ),
    "French": (
        "la bibliothèque ferme à midi mais les élèves restent près du fleuve où l'été garçons et filles écoutent un "
        "vieux théâtre joue encore cette pièce dont personne n'a jamais lu le début ça coûte cher peut-être"
    ),
    "Korean": (
        "어제 저녁 우리는 강가에서 산책을 했고 날씨가 아주 좋았다 선생님은 내일 시험이 있다고 말씀하셨지만 학생들은 "
        "기뻐하지 않았다 시장에는 신선한 과일과 빵이 많았고 할머니는 따뜻한 국을 끓이며 옛날 바다 이야기를 들려주셨다"
    ),
    "Russian": (
        "вчера вечером поезд пришёл на станцию позже обычного и пассажиры долго ждали автобус под дождём мой брат "
        "любит читать книги о море а сестра рисует горы лес и реку каждое утро они пьют чай с мёдом"
    ),
    "Greek": (
        "το καράβι έφυγε νωρίς από το λιμάνι και η θάλασσα ήταν ήρεμη οι ψαράδες γύρισαν με λίγα ψάρια όμως γελούσαν "
        "κάθε βράδυ ο παππούς διηγείται μια ιστορία για το βουνό που κανείς δεν ανέβηκε ποτέ"
    ),
    "Arabic": (
        "ذهب الولد إلى المدرسة في الصباح الباكر وكان الجو باردا جدا لكن الشمس أشرقت بعد قليل اشترت أمي خبزا وجبنا من "
        "السوق القريب ثم عدنا إلى البيت نقرأ كتابا عن البحر والسفن القديمة"
    ),
    "Hindi": (
        "सुबह बाज़ार में बहुत भीड़ थी और दुकानदार ताज़े फल बेच रहे थे मेरी बहन ने दो आम खरीदे फिर हम नदी के किनारे बैठे बारिश शुरू "
        "हुई तो सब लोग घर की ओर भागे पुराना पुल अब भी मज़बूत है"
    ),
    "Chinese": (
        "昨天 晚上 我们 一起 去 河边 散步 天气 很好 月亮 又 大 又 圆 老师 说 明天 考试 学生 都 不 高兴 这 本 书 "
        "讲 的 是 海上 的 故事 作者 住 在 山里 已经 三十 年 了"
    ),
    "Japanese": (
        "昨日 は 雨 でした が 今日 は とても 晴れて います 駅 の 前 に 新しい 図書館 が できました 子供たち は 犬 と "
        "公園 で 遊び 夕方 に 家 へ 帰ります コーヒー を 飲みながら 手紙 を 書く"
    ),
}


N_EACH = 20


def texts(n_each: int = N_EACH) -> list[str]:
    """Return so many texts in each language, always the same ones."""
    chosen = random.Random(11)
    made: list[str] = []
    for language, words in LANGUAGES.items():
        glue = "" if language in ("Chinese", "Japanese") else " "
        for number in range(n_each):
            n_words = 1 + number * 2
            text = glue.join(chosen.choices(words.split(), k=n_words))
            made.append(text if number % 3 else f"{text[:1].upper()}{text[1:]}, {number}!")
    return made
