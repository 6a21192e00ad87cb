# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The tokens that coco-caption scores: CoreNLP 3.4.1's Penn Treebank tokenizer, lower case, without punctuation.

Published BLEU, ROUGE-L and CIDEr are made of these tokens, so a number is comparable only where they are the same. The
rules here were found by asking the Java tokenizer, in pycocoevalcap's jar, about millions of short texts; they are
written down as what they do. At each place of a text the longest token of all kinds is taken, and the kind that comes
first below where several are as long; a token may ask for what follows it, which counts in its length.
"""

import re

from .ptb_characters import DIGITS, LETTERS, MARKS, SYMBOLS


PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that coco-caption removes. It compares them after lower-casing, so brackets, `-lrb-` by then, stay."""


def _characters(ranges: str) -> str:
    """Hexadecimal ranges as the inside of a character class."""
    ends = [[re.escape(chr(int(end, 16))) for end in each.split("-")] for each in ranges.split()]
    return "".join("-".join(each) for each in ends)


_LETTER = f"[{_characters(LETTERS)}]"
_DIGIT = f"[{_characters(DIGITS)}]"
_ALNUM = f"[{_characters(LETTERS)}{_characters(DIGITS)}]"
_ENTITY_LETTER = "&[aeiouAEIOU](?:acute|grave|uml);"
_SIGN = f"(?:[{_characters(LETTERS)}{_characters(MARKS)}\u00ad]|{_ENTITY_LETTER})"
_SIGN_OR_DIGIT = f"(?:[{_characters(LETTERS)}{_characters(MARKS)}{_characters(DIGITS)}\u00ad]|{_ENTITY_LETTER})"
_APOSTROPHE = "(?:['\u0092\u2019]|&apos;)"
_QUOTE = "(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
_HYPHEN = "[-\u058a\u2010\u2011]"

# Kept with their full stop: in any case, not in capitals, with a capital first, and before a number.
_ABBREVIATIONS = (
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft "
    "gen gov govs hon insp jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep "
    "reps rev sen sens sfc sgt spc st ste supt treas vs wm"
)
_ABBREVIATIONS_NOT_IN_CAPITALS = "mfg mtg"
_ABBREVIATIONS_WITH_CAPITAL = "wash"
# The same of words that end sentences as well, whose full stop so ends more.
_ENDING_ABBREVIATIONS = (
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext "
    "feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla "
    "penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
_ENDING_ABBREVIATIONS_NOT_IN_CAPITALS = "pte ptes pty"
_ENDING_ABBREVIATIONS_WITH_CAPITAL = "ark az del ill la mass miss ore pa tex"
_ABBREVIATIONS_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"

# After one of these words a single letter with a full stop was the end of a sentence.
_SENTENCE_STARTERS = (
    "the a in that you it this as at he but we an so they if one about what when more their there her she some "
    "now other our after then these here many last while such since however yet once according earlier "
    "additionally"
)
_FILE_ENDINGS = (
    "bat bmp cgi class cpp c dll docx doc exe gif gz html htm h jar java jpeg jpg mov mp3 pdf php pl png ppt ps "
    "py sql tar txt wav xml x zip"
)


def _any(words: str) -> str:
    return "(?:" + "|".join(sorted(words.split(), key=len, reverse=True)) + ")"


_NUMBER = f"{_DIGIT}*(?:[.:,\u00ad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+"
_REDUCED = f"{_APOSTROPHE}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
_WORD = f"{_SIGN}{_SIGN_OR_DIGIT}*(?:[.!?]{_SIGN}{_SIGN_OR_DIGIT}*)*"
_ELISION = f"[dDoOlL]{_QUOTE}(?={_ALNUM}{_ALNUM})"
_STARTER = f"(?:{_any(_SENTENCE_STARTERS.title())}|{_any(_SENTENCE_STARTERS.upper())})"


def _abbreviation(in_any_case: str, not_in_capitals: str, with_capital: str) -> str:
    lower = f"{not_in_capitals} {not_in_capitals.title()}"
    return f"(?:(?i:{_any(in_any_case)})|{_any(f'{lower} {with_capital.title()} {with_capital.upper()}')})"


_ABBREVIATION = _abbreviation(_ABBREVIATIONS, _ABBREVIATIONS_NOT_IN_CAPITALS, _ABBREVIATIONS_WITH_CAPITAL)
_ENDING_ABBREVIATION = _abbreviation(
    _ENDING_ABBREVIATIONS, _ENDING_ABBREVIATIONS_NOT_IN_CAPITALS, _ENDING_ABBREVIATIONS_WITH_CAPITAL
)
_ENDING_ABBREVIATION = f"(?:{_ENDING_ABBREVIATION}|(?i:ph|ed)\\.[dD])"
_JOINED = f"(?:{_ELISION})?{_ALNUM}+(?:(?:{_HYPHEN}|_)(?:{_ELISION})?{_ALNUM}+)*"
_HYPHENED = "[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\\.[A-Za-z])+\\.|[A-Za-z0-9\u00ad]+))+"
_CAPITALS = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"
_SLASHED = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_BLANK = " \t\n\f\r"
_LABEL = f'[^{_BLANK}\u00a0"<>|(){{}}.]+'
_DOMAIN = (
    f'(?:www\\.(?:[^{_BLANK}`"<>|.!?(){{}},]+\\.)+[a-zA-Z]{{2,4}}'
    f"|(?:[^{_BLANK}\"'`<>|!(){{}}$,-_]+\\.)+(?:com|net|org|edu))"
)

# In each rule the token is group 1; the rest must follow it, and counts where the longest is chosen.
_WORD_RULES = [
    # Two words in one.
    "((?i:can))(?i:not)",
    "((?i:gon|wan))(?i:na)",
    "((?i:got))(?i:ta)",
    "((?i:gim|lem))(?i:me)",
    f"({_WORD})",
    f"({_ENDING_ABBREVIATION}\\.)(?s:..)",
    # What is reduced is a token of its own: it 's, do n't.
    f"({_WORD}){_REDUCED}",
    f"([A-Za-z\u00ad]*[A-MO-Za-mo-z])[nN]{_QUOTE}[tT]",
    f"([nN]{_QUOTE}[tT])",
    # With hyphens, underscores and slashes.
    f"({_JOINED})",
    f"({_HYPHENED})",
    f"({_SLASHED}(?:\\\\?/{_SLASHED}){{1,2}})",
    # With full stops.
    "([A-Za-z](?:\\.[A-Za-z])+\\.)",
    "([A-Za-z]\\.)",
    f"([A-Za-z])\\.[\\s\u00a0]+{_STARTER}\\s",
    f"({_ABBREVIATION}\\.)",
    f"({_ENDING_ABBREVIATION}\\.)",
    f"((?i:{_any(_ABBREVIATIONS_BEFORE_NUMBER)})\\.)\\s?{_DIGIT}",
    f"((?:{_WORD}|{_CAPITALS})\\.)[,:;\u3001]",
    f"((?:{_JOINED})\\.)[,:;\u3001]",
    f"((?:{_HYPHENED})\\.)[,:;\u3001]",
    # With signs.
    f"({_CAPITALS})",
    "([cC]\\+\\+|[cCfF]#)",
    "([A-Z]*\\$)",
    # Files, addresses.
    f"({_SIGN_OR_DIGIT}+(?:\\.{_SIGN_OR_DIGIT}+)*\\.(?i:{_any(_FILE_ENDINGS)}))[\\s.?!,]",
    f'((?i:https?)://[^{_BLANK}"<>|(){{}}]+[^{_BLANK}"<>|.!?(){{}},-])',
    f'({_DOMAIN}(?:/[^{_BLANK}`"<>|()]+[^{_BLANK}`"<>|.!?(){{}},-])?)',
    f'(<?[a-zA-Z0-9][^{_BLANK}\u00a0"<>|(){{}}]*@(?:{_LABEL}\\.)*{_LABEL}>?)',
    # With apostrophes.
    f"([lLdDjJ]{_APOSTROPHE}|(?i:ol|somethin|dunkin){_APOSTROPHE})",
    f"([A-HJ-XZn]{_QUOTE}{_LETTER}{{2,}})",
    f"({_LETTER}+[aeiouyAEIOUY]{_QUOTE}[aeiouA-Z]{_LETTER}*)",
    f"([oO]{_QUOTE}[oO])",
    "((?i:c'mon|c'est|e'er|s'mores|ev'ry|li'l|nat'l|nor'easter))",
    f"((?i:cap){_APOSTROPHE}[nN])",
    f"([yY]{_APOSTROPHE}){_LETTER}",
]
_PHONE_GROUP = "[0-9]{2,4}[- \u00a0]"
_NUMBER_RULES = [
    f"([-+]?(?:{_NUMBER}))",
    f"({_DIGIT}{{1,2}}[-/]{_DIGIT}{{1,2}}[-/]{_DIGIT}{{2,4}})",
    f"((?:{_DIGIT}{{1,4}}[- \u00a0])?{_DIGIT}{{1,4}}(?:\\\\?/|\u2044){_DIGIT}{{1,4}})",
    f"((?:\\([0-9]{{2,3}}\\)[ \u00a0]?|(?:\\+\\+?)?(?:{_PHONE_GROUP})?{_PHONE_GROUP})"
    "[0-9]{3,4}[- \u00a0]?[0-9]{3,5})",
    "((?:\\+\\+?)?(?:[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5})",
]
_ATTRIBUTE = "[A-Za-z][A-Za-z0-9:.-]*(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?"
_OTHER_RULES = [
    f"([{_characters(SYMBOLS)}])",
    f"({_REDUCED})[^A-Za-z]",
    f"({_APOSTROPHE}(?:[nN]{_APOSTROPHE}?|(?i:em|till?|cause|[2-9]0s)))",
    "('[tT])(?:[iI][sS]|[wW][aA][sS])",
    f"({_APOSTROPHE}[0-9][0-9])[\\s]",
    "(')[A-Za-z][^ \t\n\r\u00a0]",
    f"({_REDUCED})",
    "(\\\\\\*)",
    f"(#{_SIGN}+)",
    "(@[A-Za-z_][A-Za-z_0-9]*)",
    "([!?]+|_+|\\*+|#+|@+|<<|>>|-+)",
    "('')",
    "(\\.{3,5}|\\.(?:[ \u00a0]\\.){2,4})",
    "([`\u0091-\u0094\u00ab\u00bb\u2018\u2019\u201b-\u201d\u2039\u203a]{2})",
    "(-(?i:[lr][rcs]b)-)",
    "([<>]?[:;=][-o*']?[)\\](\\[dDpPO{@|\\\\])(?![A-Za-z0-9])",
    "([-^x=~<>']_[-^x=~<>']|\\([-^x=~<>'][_.]?[-^x=~<>']\\))",
    "((?i:&(?:amp|lt|gt|quot|apos|nbsp|mdash|ndash|#[0-9]+);))",
    f"(</?[A-Za-z][A-Za-z0-9:.@-]*(?: +(?:{_ATTRIBUTE}))* */?>)",
    "(<[!?][A-Za-z-][^>\r\n]*>)",
    "([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))",
]

_AT_LETTER = [re.compile(rule) for rule in _WORD_RULES]
_AT_DIGIT = _AT_LETTER + [re.compile(rule) for rule in _NUMBER_RULES]
_AT_OTHER = _AT_DIGIT + [re.compile(rule) for rule in _OTHER_RULES]

# Most words of a caption, found without trying every rule: what may follow them makes no longer token possible.
_PLAIN_WORD = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)*)(?:(?=[,!?]?(?: |\n))|\.(?= *\n))")
_NOT_PLAIN = frozenset(
    [
        *["cannot", "gonna", "wanna", "gotta", "gimme", "lemme"],
        *_ABBREVIATIONS.split(),
        *_ABBREVIATIONS_NOT_IN_CAPITALS.split(),
        *_ABBREVIATIONS_WITH_CAPITAL.split(),
        *_ENDING_ABBREVIATIONS.split(),
        *_ENDING_ABBREVIATIONS_NOT_IN_CAPITALS.split(),
        *_ENDING_ABBREVIATIONS_WITH_CAPITAL.split(),
        *_ABBREVIATIONS_BEFORE_NUMBER.split(),
    ]
)

_PUNCTUATION_SIGNS = ['"', "\u0096", "\u0097", "\u2013", "\u2014", "\u2015", "\u2026", "\u00ad"]
_PUNCTUATION_ENTITIES = ["&quot;", "&apos;", "&mdash;", "&ndash;", "&nbsp;"]
_CASELESS_ENTITIES = ("&amp;", "&lt;", "&gt;")
_SPELLINGS = {
    **dict.fromkeys(_PUNCTUATION_SIGNS + _PUNCTUATION_ENTITIES, ""),
    **{"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "&amp;": "&", "&lt;": "<", "&gt;": ">"},
    **{"\u00a3": "#", "\u00a2": "cents", "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$"},
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
}
_QUOTATION_MARKS = {
    "`": "`",
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}
_IS_REDUCED = re.compile(f"{_REDUCED}|[nN]{_APOSTROPHE}[tT]")
_IS_APOSTROPHE = re.compile(_APOSTROPHE)
_IS_DASH_OR_DOTS = re.compile("-{2,4}|[. \u00a0]+")


def ptb_tokenize(text: str) -> list[str]:
    """
    The tokens of `text` that coco-caption scores.

    A caption is tokenized alone. The Java program reads all captions as one file, a line each, and for a few tokens
    looks into the next line: it drops the full stop of a letter at a caption's end ("the letter A.") where the next
    one begins with a word such as "The", and keeps that of "no." where the next one begins with a number.

    A token with a space inside, "1 1/2" or a telephone number, has a no-break space there, as the program prints it.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"ptb_tokenize takes a text, not {type(text).__name__}")
    text = text.replace("\n", " ") + "\n"
    tokens = []
    place, end = 0, len(text) - 1
    while place < end:
        plain = _PLAIN_WORD.match(text, place)
        if plain and (word := plain[1].lower()) not in _NOT_PLAIN and (len(word) > 1 or text[plain.end(1)] != "."):
            tokens.append(word)
            place = plain.end()
        elif text[place] == " ":
            place += 1
        else:
            length, spelling = _token_at(text, place)
            place += length
            if spelling and spelling not in PUNCTUATION:
                tokens.append(spelling)
    # An address may take a no-break space in; at the end of its line coco-caption strips it.
    return [*tokens[:-1], tokens[-1].rstrip()] if tokens else tokens


def _token_at(text: str, place: int) -> tuple[int, str]:
    """Length and spelling of the token that begins at `place`; (1, "") where none does."""
    character = text[place]
    if character.isascii() and character.isalnum():
        rules = _AT_DIGIT if character.isdigit() else _AT_LETTER
    else:
        rules = _AT_OTHER
    longest, token = 0, ""
    for rule in rules:
        found = rule.match(text, place)
        if found and found.end() - place > longest:
            longest, token = found.end() - place, found[1]
    return max(len(token), 1), _spelled(token)


def _spelled(token: str) -> str:
    """A token as the Java program prints it, or "" for one that is punctuation however it is printed."""
    if token in _SPELLINGS or token.lower() in _CASELESS_ENTITIES:
        return _SPELLINGS.get(token, _SPELLINGS.get(token.lower(), ""))
    if len(token) <= 2 and all(character in _QUOTATION_MARKS for character in token):
        return "".join(_QUOTATION_MARKS[character] for character in token)
    if _IS_DASH_OR_DOTS.fullmatch(token):
        return ""
    if _IS_REDUCED.fullmatch(token):
        token = _IS_APOSTROPHE.sub("'", token)
    if "@" not in token and "://" not in token and not token.startswith("#"):
        token = token.replace("\u00ad", "").replace("&amp;", "&")
    return token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-").lower()
