from __future__ import annotations

import pytest

from edge_detector.passwords import check_password, hash_password

# Made by passlib 1.7.4: scrypt.using(rounds=4, salt=b"0123456789abcdef").hash("correct horse")
OF_PASSLIB = "$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$OAkZqUBelG6VIYdTJfYSENL5OmZRxMa3GwXn5oFliTg"


@pytest.mark.parametrize("password", ["correct horse", "", "пароль 犬", "x" * 1000])
def test_hash_is_of_its_password_alone_and_salted(password: str) -> None:
    hashed = hash_password(password)
    assert check_password(password, hashed)
    assert not check_password(password + " ", hashed)
    assert hash_password(password) != hashed


def test_hash_of_passlib_is_understood() -> None:
    assert check_password("correct horse", OF_PASSLIB)
    assert not check_password("wrong horse", OF_PASSLIB)


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "correct horse",
        OF_PASSLIB[:-1],
        OF_PASSLIB.replace("ln=4", "ln=31"),
        OF_PASSLIB.replace("ln=4", "ln=0"),
        OF_PASSLIB.replace("r=8", "r=99").replace("ln=4", "ln=15"),
        OF_PASSLIB.replace("ln=4", "ln=17"),
        OF_PASSLIB.replace("p=1", "p=9"),
        "$2b$12$abcdefghijklmnopqrstuv",
    ],
)
def test_what_is_no_hash_or_would_take_all_memory_is_refused(hashed: str) -> None:
    with pytest.raises(ValueError, match="edge-detector password"):
        check_password("correct horse", hashed)
