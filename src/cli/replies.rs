//! The stored replies of endpoints: what `ls --replies` lists and `gc --replies` deletes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::args::Global;
use super::format::{counted, grouped, human_bytes, money};
use super::session::open_existing_store;
use super::shell::Shell;
use super::value_parsers::SECONDS_PER_DAY;
use ablate_store::{Replies, ReplyTotals};

/// Lists the stored replies by model and endpoint.
pub(super) fn list(shell: Shell, global: &Global) -> Result<()> {
    let store = open_existing_store(global)?;
    let totals = Replies::open(&store.replies_path()).totals()?;
    if shell.json {
        return shell.json(&totals);
    }
    let text = if totals.is_empty() { "the store has no replies of endpoints".to_string() } else { render(&totals) };
    shell.result(&text);
    Ok(())
}

/// Deletes the replies that are older than `age`, or all.
pub(super) fn delete(shell: Shell, global: &Global, age: Option<Duration>, dry_run: bool) -> Result<()> {
    let store = open_existing_store(global)?;
    let totals = store.delete_replies(age, dry_run)?;
    if shell.json {
        return shell.json(&totals);
    }
    shell.result(&render_deleted(&totals, age, dry_run));
    Ok(())
}

fn render_deleted(totals: &[ReplyTotals], age: Option<Duration>, dry_run: bool) -> String {
    let age = age.map(|age| format!(" older than {} days", age.as_secs_f64() / SECONDS_PER_DAY)).unwrap_or_default();
    if totals.is_empty() {
        return format!("the store has no replies of endpoints{age}");
    }
    let all = sum(totals);
    let verb = if dry_run { "would delete" } else { "deleted" };
    let (replies, size) = (counted(all.replies, "reply", "replies"), human_bytes(all.bytes));
    let cost = match costs(&all.cost) {
        cost if cost.is_empty() => String::new(),
        cost => format!(", which cost {cost}"),
    };
    let again = "a stage that needs one of them requests it again";
    format!("{verb} {replies}{age}, {size}{cost}: {again}\n{}", render(totals))
}

/// Two lines per model and endpoint, and a total if there are several.
fn render(totals: &[ReplyTotals]) -> String {
    let mut text = String::new();
    for one in totals {
        text.push_str(&format!("{} at {}\n  {}\n", one.model, one.url, details(one)));
    }
    if totals.len() > 1 {
        text.push_str(&format!("total\n  {}\n", details(&sum(totals))));
    }
    text
}

fn details(totals: &ReplyTotals) -> String {
    let mut parts = vec![counted(totals.replies, "reply", "replies")];
    let bad: Vec<String> = totals.bad.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count))).collect();
    if !bad.is_empty() {
        parts[0].push_str(&format!(" ({})", bad.join(", ")));
    }
    parts.push(format!("{} tokens of prompts", grouped(totals.prompt_tokens)));
    parts.push(format!("{} of replies", grouped(totals.reply_tokens)));
    parts.extend(Some(costs(&totals.cost)).filter(|cost| !cost.is_empty()));
    parts.push(human_bytes(totals.bytes));
    if let (Some(first), Some(last)) = (totals.first, totals.last) {
        let [first, last] = [first, last].map(|time| time.strftime("%Y-%m-%d %H:%M").to_string());
        parts.push(format!("from {first} to {last} UTC"));
    }
    parts.join(", ")
}

fn costs(cost: &BTreeMap<String, f64>) -> String {
    let costs: Vec<String> = cost.iter().map(|(currency, amount)| money(*amount, currency)).collect();
    costs.join(" + ")
}

/// The total over models and endpoints.
pub(super) fn sum(totals: &[ReplyTotals]) -> ReplyTotals {
    let mut all = ReplyTotals::default();
    for one in totals {
        let ReplyTotals { model: _, url: _, replies, bad, prompt_tokens, reply_tokens, cost, bytes, first, last } = one;
        all.replies += replies;
        for (kind, count) in bad {
            *all.bad.entry(kind.clone()).or_default() += count;
        }
        all.prompt_tokens = all.prompt_tokens.saturating_add(*prompt_tokens);
        all.reply_tokens = all.reply_tokens.saturating_add(*reply_tokens);
        for (currency, amount) in cost {
            *all.cost.entry(currency.clone()).or_default() += amount;
        }
        all.bytes += bytes;
        all.first = all.first.into_iter().chain(*first).min();
        all.last = all.last.into_iter().chain(*last).max();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn totals() -> Vec<ReplyTotals> {
        let large = ReplyTotals {
            model: "large".to_string(),
            url: "https://one.example/v1".to_string(),
            replies: 1200,
            bad: BTreeMap::from([("empty".to_string(), 7), ("refused".to_string(), 1)]),
            prompt_tokens: 340_000,
            reply_tokens: 52_300,
            cost: BTreeMap::from([("USD".to_string(), 1.234)]),
            bytes: 2 << 20,
            first: Some("2026-02-01T10:00:00Z".parse().unwrap()),
            last: Some("2026-02-03T12:30:59Z".parse().unwrap()),
        };
        let free = ReplyTotals {
            model: "small".to_string(),
            url: "http://127.0.0.1/v1".to_string(),
            replies: 1,
            bytes: 100,
            cost: BTreeMap::from([("EUR".to_string(), 0.5), ("USD".to_string(), 1.0)]),
            ..ReplyTotals::default()
        };
        vec![large, free]
    }

    #[test]
    fn replies_are_listed_by_model_with_a_total() {
        expect![[r#"
            large at https://one.example/v1
              1,200 replies (7 empty, 1 refused), 340,000 tokens of prompts, 52,300 of replies, $1.23, 2.00 MiB, from 2026-02-01 10:00 to 2026-02-03 12:30 UTC
            small at http://127.0.0.1/v1
              1 reply, 0 tokens of prompts, 0 of replies, 0.50 EUR + $1.00, 100 B
            total
              1,201 replies (7 empty, 1 refused), 340,000 tokens of prompts, 52,300 of replies, 0.50 EUR + $2.23, 2.00 MiB, from 2026-02-01 10:00 to 2026-02-03 12:30 UTC
        "#]]
        .assert_eq(&render(&totals()));
    }

    #[test]
    fn deleting_states_what_is_lost() {
        let totals = totals();
        let day = Some(Duration::from_secs(36 * 3600));
        let first = |text: String| text.lines().next().unwrap_or_default().to_string();
        expect![[r#"
            would delete 1,200 replies older than 1.5 days, 2.00 MiB, which cost $1.23: a stage that needs one of them requests it again
            deleted 1,201 replies, 2.00 MiB, which cost 0.50 EUR + $2.23: a stage that needs one of them requests it again
            the store has no replies of endpoints older than 1.5 days"#]]
        .assert_eq(
            &[
                first(render_deleted(&totals[..1], day, true)),
                first(render_deleted(&totals, None, false)),
                first(render_deleted(&[], day, false)),
            ]
            .join("\n"),
        );
    }
}
