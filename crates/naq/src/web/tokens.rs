//! Tokens of programs, and the sessions of browsers that are based on them.

use ring::hmac;
use sha2::{Digest, Sha256};

use super::access::{Identity, Right};
use naq_protocol::Timestamp;

/// How long a session of a browser lasts, in milliseconds: a working day.
pub(super) const SESSION_MS: i64 = 12 * 3_600_000;

/// Shortest secret that is accepted, in characters. Shorter ones can be guessed.
const SECRET_CHARS_MIN: usize = 20;

/// Longest name of a token, in characters.
const NAME_CHARS_MAX: usize = 64;

/// A secret that grants a right to everyone who has it. Only its digest is stored.
pub struct Token {
    name: String,
    right: Right,
    digest: [u8; 32],
    session_key: hmac::Key,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Token { name, right, .. } = self;
        write!(f, "Token({name}, {})", right.name())
    }
}

impl Token {
    /// A token of this name.
    ///
    /// # Errors
    /// Returns a message, for people, if the name is not 1 to 64 letters, digits, `_`, `.` and `-`, or if
    /// the secret is shorter than 20 characters.
    pub fn new(name: &str, right: Right, secret: &str) -> Result<Token, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
            return Err(format!(
                "the name of a token is 1 to {NAME_CHARS_MAX} letters, digits, `_`, `.` and `-`"
            ));
        }
        if secret.chars().count() < SECRET_CHARS_MIN {
            return Err(format!(
                "the token `{name}` is shorter than {SECRET_CHARS_MIN} characters"
            ));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let session_key = hmac::sign(&key, b"naq dashboard session");
        Ok(Token {
            name: name.to_owned(),
            right,
            digest: Sha256::digest(secret).into(),
            session_key: hmac::Key::new(hmac::HMAC_SHA256, session_key.as_ref()),
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            right: self.right,
            is_forwarded: false,
        }
    }

    fn sign(&self, expires_ms: i64) -> hmac::Tag {
        hmac::sign(&self.session_key, self.signed_text(expires_ms).as_bytes())
    }

    fn signed_text(&self, expires_ms: i64) -> String {
        format!("{}:{}:{expires_ms}", self.name, self.right.name())
    }
}

/// All tokens that are accepted.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Adds a token.
    ///
    /// # Errors
    /// Returns a message, for people, if a token of this name exists: it would be unclear whose session a
    /// cookie is.
    pub fn add(&mut self, token: Token) -> Result<(), String> {
        if self.0.iter().any(|known| known.name == token.name) {
            return Err(format!("two tokens have the name `{}`", token.name));
        }
        self.0.push(token);
        Ok(())
    }

    /// Whether no token exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The identity of the token with this secret. The duration reveals nothing about secrets, because this
    /// compares digests, which a client cannot choose.
    pub(super) fn of_secret(&self, secret: &str) -> Option<Identity> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let found = self.0.iter().find(|token| token.digest == digest);
        found.map(Token::identity)
    }

    /// A digest of something of this kind, 16 hexadecimal digits, which nobody can compute without the first token.
    pub(super) fn keyed_digest(&self, kind: &str, bytes: &[u8]) -> String {
        let Some(token) = self.0.first() else {
            return String::new();
        };
        let mut context = hmac::Context::with_key(&token.session_key);
        // no colon follows, so it is the text of no session
        context.update(format!("digest of a {kind}\n").as_bytes());
        context.update(bytes);
        hex(&context.sign().as_ref()[..8])
    }

    /// The value of a cookie for a session of this token that begins now. `None` if no such token exists.
    pub(super) fn new_session(&self, name: &str, now: Timestamp) -> Option<String> {
        let token = self.0.iter().find(|token| token.name == name)?;
        let expires_ms = now.unix_ms() + SESSION_MS;
        let tag = token.sign(expires_ms);
        Some(format!("{name}:{expires_ms}:{}", hex(tag.as_ref())))
    }

    /// The identity of a cookie's session. `None` if the session has ended, or if its token was changed or
    /// removed.
    pub(super) fn of_session(&self, cookie: &str, now: Timestamp) -> Option<Identity> {
        let mut parts = cookie.split(':');
        let (name, expires_ms, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let expires_ms: i64 = expires_ms.parse().ok()?;
        let tag = from_hex(tag)?;
        let token = self.0.iter().find(|token| token.name == name)?;
        let text = token.signed_text(expires_ms);
        hmac::verify(&token.session_key, text.as_bytes(), &tag).ok()?;
        (now.unix_ms() < expires_ms).then(|| token.identity())
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    digits
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefghij";

    fn at(unix_ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(unix_ms).unwrap()
    }

    fn tokens(secret: &str, right: Right) -> Tokens {
        let mut tokens = Tokens::default();
        tokens
            .add(Token::new("anna", right, secret).unwrap())
            .unwrap();
        tokens
    }

    #[test]
    fn a_token_is_known_by_its_secret() {
        let tokens = tokens(SECRET, Right::Operate);
        let anna = Identity {
            name: "anna".to_owned(),
            right: Right::Operate,
            is_forwarded: false,
        };
        assert_eq!(tokens.of_secret(SECRET), Some(anna));
        assert_eq!(tokens.of_secret("0123456789abcdefghiJ"), None);
        assert_eq!(tokens.of_secret(""), None);
        assert!(!format!("{tokens:?}").contains(SECRET));
    }

    #[test]
    fn a_session_ends_and_cannot_be_changed() {
        let known = tokens(SECRET, Right::Operate);
        let start = at(1_000_000);
        let cookie = known.new_session("anna", start).unwrap();
        assert_eq!(known.new_session("bert", start), None);
        assert_eq!(known.of_session(&cookie, start).unwrap().name, "anna");
        let last = at(1_000_000 + SESSION_MS - 1);
        assert!(known.of_session(&cookie, last).is_some());
        assert!(
            known
                .of_session(&cookie, at(1_000_000 + SESSION_MS))
                .is_none()
        );

        let expires_ms = 1_000_000 + SESSION_MS;
        let later = cookie.replace(&expires_ms.to_string(), &(expires_ms + 1).to_string());
        let cut = &cookie[..cookie.len() - 2];
        for wrong in [
            later.as_str(),
            cut,
            "",
            "anna",
            "anna:1:",
            "anna:x:00",
            ":::",
            "anna:9:é",
        ] {
            assert!(known.of_session(wrong, start).is_none(), "{wrong}");
        }
        // a token that was replaced, or whose right was changed, ends its sessions
        let replaced = tokens("another-secret-of-anna", Right::Operate);
        assert!(replaced.of_session(&cookie, start).is_none());
        let reduced = tokens(SECRET, Right::View);
        assert!(reduced.of_session(&cookie, start).is_none());
    }

    #[test]
    fn weak_and_ambiguous_tokens_are_refused() {
        assert!(Token::new("anna", Right::View, "short").is_err());
        for name in ["", "a b", "a:b", "é", &"a".repeat(65)] {
            assert!(Token::new(name, Right::View, SECRET).is_err(), "{name}");
        }
        let mut tokens = tokens(SECRET, Right::View);
        let second = Token::new("anna", Right::Submit, "another-secret-of-anna").unwrap();
        assert!(tokens.add(second).is_err());
    }
}
