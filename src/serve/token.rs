//! Secret tokens: random ones, and the rules for those that the user chooses.

use anyhow::{Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

/// Least number of characters of a token.
const MIN_LENGTH: usize = 16;

/// A new token of 192 random bits.
pub(super) fn random() -> Result<String> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Fails for a token that could be guessed, or that an address cannot contain as it is.
pub(super) fn check(token: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if token.len() < MIN_LENGTH {
        bail!("the token has less than {MIN_LENGTH} characters\nhelp: `--token` without a value makes a random one");
    }
    if !token.bytes().all(is_plain) {
        bail!(
            "the token has other characters than A-Z, a-z, 0-9 and `-._~`\nhelp: `--token` without a value makes a random one"
        );
    }
    Ok(())
}

/// Whether a secret is the right one. The time that this takes does not depend on where they differ.
pub(super) fn is_equal(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_valid_and_differ() {
        let tokens = [random().unwrap(), random().unwrap()];
        assert!(tokens.iter().all(|token| check(token).is_ok() && token.len() == 32));
        assert!(!is_equal(&tokens[0], &tokens[1]) && is_equal(&tokens[0], &tokens[0].clone()));
        assert!(!is_equal(&tokens[0][..31], &tokens[0]) && !is_equal("", &tokens[0]));
    }

    #[test]
    fn weak_tokens_are_refused() {
        assert!(check("secret").is_err() && check("0123456789abcde").is_err());
        assert!(check("0123456789 abcdef").is_err() && check("0123456789abcdef&x=").is_err());
        assert!(check("0123456789abcdef").is_ok());
    }
}
