"""What a poem is about: from the title that its source gives it, or else from its words.

A theme is a list of words, or of beginnings of words (with a hyphen). A word of a text that is in the list of a theme
speaks for it with ln((N + 1) / (n + 1)), if n of N texts have that word: of a word that all poets use, nearly 0.
The theme is the one for which most is said, if no other theme has more than LEAD of that; else there is none. So it is
a count of words and no understanding: where it is used, the theme is marked as derived. A title in Devanagari belongs
to the theme that its own words are in. Of 1,040 poems by Surdas and Kabir with such titles the words name a theme for
527, and for 57 % of these the title's; the commonest theme would be right for 28 %.

Bayes tells whether a text sounds like its theme: the multinomial naive Bayes classifier with add-one smoothing,

    theme = argmax over t of   ln P(t) + sum over words w of the text of ln (n(w, t) + 1) / (n(t) + V)          [NB1]

n(w, t) is how often w stands in training texts of t, n(t) their words, V the different words of all. Words that no
training text has are passed over.
"""
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

from tok.scansion import WORD

LEAD = 0.5
THEMES = {name: words.split() for name, words in {
    "bhakti": "भक्ति भगति भगत- भक्त- भजन भजु भजि भजे भजहु भजिय सुमिर- सुमिरन नाम नामु शरण सरन- दासता दास आरती पूजा जप जपु "
              "कीर्तन निरगुन सगुन सगुणोपासना महिमा भगवदाश्रम उपासना",
    "guru": "गुरु गुर गुरू सतगुर- सद्गुरु- शिष्य सिष सिख उपदेस- उपदेश- पारख सबद शब्द दीक्षा",
    "kaal": "काल कालु मृत्यु मरन मरण मौत जम यम काया देह चेत- चेतावनी गरब गर्व छार माटी मरि मुआ मुए मरना मरिहै बुढ़ापा बैराग- वैराग्य "
            "नश्वर जोबन",
    "niti": "संगति संगत सतसंग- सत्संग- साधु असाधु खल दुर्जन सज्जन नीच ओछ- कुसंग- संपति मीत मित्र लोभ क्रोध मूरख चतुर दुष्ट मान- "
            "कपट भेष भीख निंदा निन्दा दया क्षमा धीरज संतोष सील शील",
    "viraha": "बिरह- विरह- बिछुर- बिछोह बियोग- वियोग- संदेस- संदेश- पाती ऊधौ ऊधो उद्धव मधुप मधुकर अलि जोग परदेस- बिदेस- "
              "पथिक संवाद प्रवास-",
    "prem": "प्रेम प्रेमु प्रीति प्रीत नेह सनेह- स्नेह- अनुराग- राधा राधे राधिका प्यार प्यारे प्यारी प्रिय प्रीतम प्रियतम पिया पिउ पीव रति "
            "मिलन रूपवर्णन मान",
    "lila": "माखन माखनचोरी गोपाल- बालगोपाल नंद नंदलाल नँद- जसोदा जसुमति यशोदा बाल- गोकुल ग्वाल- गोचारण मुरली बाँसुरी बेनु रास दान "
            "दधि कान्ह- कन्हैया लीला शैशवचरित गोदोहन चीरहरन कमरी पनघट ब्रज- गोवर्द्धन- कालीदमन",
    "yuddha": "जुद्ध युद्ध रन रण सर बान बाण धनु धनुष सेना सेन कटक कपि निसिचर- राच्छस रावन रावण दससीस दसकंधर लंका सुभट भट बीर वीर "
              "रथ गदा खड्ग कृपान मारा मारे सायक समर तलवार बध",
    "prakriti": "वर्षा बरषा बादर बादल घन मेघ पवन समीर बसंत वसंत वसंतोत्सव फूल सुमन तरु बिटप कमल भौंर भ्रमर सागर सिंधु गगन चंद्र तारा "
                "तारे हिम नदी सरिता सरित निर्झर लता बन वन कोकिल चातक मोर दादुर उषा किरण संध्या रजनी लहर-",
    "karuna": "दुख दुखी दुःख दुखित सोक शोक आँसू अश्रु रोदन रोवत रोवै रोई बिलाप बिलाप- बिकल ब्याकुल- व्याकुल- पीर पीड़ा व्यथा बिथा "
              "वेदना निराश विषाद बिषाद",
    "raj": "राजा भूप भूपति नृप नृपति सभा राजु राज दसरथ जनक अवध मुनि मुनिबर बिप्र बिबाह बिआह- ब्याह- सीय आयसु रानी मंत्री समाज "
           "समाजू तिलक रामचरित द्वारिका परिणय",
    "stuti": "जय जयति जै बंदउ बंदउँ बंदौं बंदों वन्दे वंदे नमामि नमामी नमो नमत मंगल गनपति गणपति गनेस गणेश सारद संकर शंकर सिव शिव हनुमान "
             "हनुमत पवनसुत गौरी गंगा",
}.items()}
_SPLIT = re.compile(r"[\s-]+")


@lru_cache(1 << 17)
def themes_of(word: str) -> tuple[str, ...]:
    """The themes that have a word in their lists."""
    return tuple(name for name, words in THEMES.items()
                 if any(word.startswith(w[:-1]) if w.endswith("-") else word == w for w in words))


def of_title(title: str) -> str:
    """The theme of the first word of a title that has one, or ""."""
    return next((name for word in _SPLIT.split(title) for name in themes_of(word)), "")


class Deriver:
    """Themes from words, with the counts of these texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.n, self.having = 0, Counter()
        for text in texts:
            self.n += 1
            self.having.update(set(WORD.findall(text)))

    def __call__(self, text: str) -> str:
        """The theme of a text, or ""."""
        said = Counter()
        for word in WORD.findall(text):
            for name in themes_of(word):
                said[name] += math.log((self.n + 1) / (self.having[word] + 1))  # type: ignore[assignment]  # no count
        (first, most), (_, next_most) = [*said.most_common(2), ("", 0.0), ("", 0.0)][:2]
        return first if next_most <= LEAD * most else ""


class Bayes:
    """The classifier of [NB1], from (text, class) pairs."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.words, self.texts = defaultdict(Counter), Counter()
        for text, name in pairs:
            self.texts[name] += 1
            self.words[name].update(WORD.findall(text))
        self.known = set().union(*self.words.values())
        self.totals = {name: counts.total() for name, counts in self.words.items()}

    def __call__(self, text: str) -> str:
        words = [word for word in WORD.findall(text) if word in self.known]
        return max(sorted(self.texts), key=lambda name: self.log_p(name, words))

    def log_p(self, name: str, words: Iterable[str]) -> float:
        """[NB1] of one class, for words that are known."""
        counts, total = self.words[name], self.totals[name] + len(self.known)
        prior = math.log(self.texts[name] / self.texts.total())
        return prior + sum(math.log((counts[word] + 1) / total) for word in words)
