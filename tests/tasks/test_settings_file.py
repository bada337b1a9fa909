"""Settings of strangers: YAML that is read, or has a reason, in bounded memory."""
# ruff: noqa: PT017

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxvision.training.settings import SettingsFileError, read_settings_file

FUZZ = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "its aliases .* stand for more than 100000 values"),
        ("a: &a [*a]\n", "contains itself"),
        ("[" * 10**5, "lists within lists"),
        ("a: !!python/object/apply:os.system [touch owned]\n", "could not determine a constructor"),
        ("- a\n- b\n", "expected names and values, got a list"),
        ("a: [\n", "not YAML .*line 2, column 1"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: 2001-99-99\n", "not YAML"),
        ("a: \x00\n", "not YAML"),
        ("? [a]\n: b\n", "not YAML"),
        ("# " + "x" * 10**6, "larger than 1 MB"),
    ],
)
def test_settings_of_strangers_have_a_reason(tmp_path, text, reason):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsFileError, match=reason) as caught:
        read_settings_file(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


@settings(FUZZ, max_examples=60)
@given(st.text(alphabet="ab:-[]{}&*!<>?|'\"#%@,\n\t 01.~", max_size=40) | st.binary(max_size=40))
def test_any_settings_are_read_or_have_a_reason(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        assert isinstance(read_settings_file(tmp_path / "a.yaml"), dict)
    except SettingsFileError as error:
        assert "\n" not in str(error)
