"""Splitting a policy file into policies."""

from hypothesis import given
from hypothesis import strategies as st

from xksproxy.authorization.statements import MAXIMUM_DEPTH, MAXIMUM_WORDS, split_statements

_ONE = "permit (principal, action, resource);"


def test_each_policy_has_the_line_on_which_it_begins() -> None:
    text = f'// one; two\n\n@id("a")\n{_ONE} {_ONE}\n// "\n{_ONE}\n\n'

    assert [statement.line for statement in split_statements(text)] == [3, 4, 6]


def test_semicolons_in_strings_and_comments_end_nothing() -> None:
    text = 'permit (principal, action, resource) when { context.region == "a;\\";b" // ;\n};'

    assert [statement.text for statement in split_statements(text)] == [text]


def test_an_unfinished_policy_is_one() -> None:
    assert [statement.text for statement in split_statements(_ONE + " permit")] == [_ONE, " permit"]


def test_blanks_and_comments_are_no_policy() -> None:
    assert list(split_statements("  // permit (principal, action, resource);\n\r\n\t")) == []


def test_a_carriage_return_ends_a_comment_as_it_does_for_cedar() -> None:
    assert len(list(split_statements(f"// comment\r{_ONE}"))) == 1


def test_brackets_in_strings_do_not_count() -> None:
    (statement,) = split_statements('"' + "(" * 99 + '" // ' + "(" * 99 + "\n;")

    assert (statement.depth, statement.words) == (0, 0)


def test_a_closing_bracket_without_an_opening_one_does_not_lower_the_depth() -> None:
    (statement,) = split_statements(")" * 99 + "(" * 99)

    assert statement.depth == 99 > MAXIMUM_DEPTH


def test_a_long_set_of_strings_is_no_long_chain() -> None:
    (statement,) = split_statements("[" + ",".join(f'"{n}"' for n in range(5000)) + "];")

    assert statement.words <= 1 < MAXIMUM_WORDS


@given(st.text(alphabet='ab"\\;/\n\r({[]}) ,|&'))
def test_no_text_is_lost_but_blanks_and_comments_at_the_end(text: str) -> None:
    statements = list(split_statements(text))

    joined = "".join(statement.text for statement in statements)
    assert text.startswith(joined)
    assert list(split_statements(text[len(joined) :])) == []
    assert all(1 <= statement.line <= text.count("\n") + 1 for statement in statements)
