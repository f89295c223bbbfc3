"""The function that every system calls."""


def count_words(text):
    return len(text.split())
