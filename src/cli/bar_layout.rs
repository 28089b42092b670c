//! The layout of progress bars: names and bars of a width that leaves space for numbers, also in 60 columns.

use std::borrow::Cow;

use console::measure_text_width;
use indicatif::ProgressStyle;

use ablate_core::base::escape::escape_line;

/// The widths of the parts of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarLayout {
    /// Columns of the instance's name.
    pub(super) name: usize,
    /// Columns of the bar.
    bar: usize,
}

impl BarLayout {
    /// The layout for a terminal of this width.
    pub(super) fn for_width(columns: usize) -> BarLayout {
        match columns {
            0..70 => BarLayout { name: 18, bar: 8 },
            70..100 => BarLayout { name: 24, bar: 12 },
            _ => BarLayout { name: 34, bar: 16 },
        }
    }

    /// The name of an instance in its width.
    pub(super) fn name(self, name: &str) -> String {
        let name = shorten_middle(&escape_line(name), self.name).into_owned();
        let space = " ".repeat(self.name - measure_text_width(&name));
        name + &space
    }

    /// A stage that has not reported its progress. The message is cut at the end of the line.
    pub(super) fn waiting() -> ProgressStyle {
        style("{spinner} {prefix} {elapsed:>5}  {wide_msg}")
    }

    /// A stage that reports its progress.
    pub(super) fn running(self) -> ProgressStyle {
        style(&format!("{{spinner}} {{prefix}} {{bar:{}.cyan/dim}} {{wide_msg}}", self.bar))
    }

    /// The run as a whole.
    pub(super) fn overall(self) -> ProgressStyle {
        style(&format!("{{bar:{}.green/dim}} {{pos}}/{{len}} stages  {{elapsed_precise}}  {{wide_msg}}", self.bar))
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|error| panic!("BUG: the template `{template}` of a bar: {error}"))
}

/// A text in at most `width` columns: its middle is replaced by `…`, since names often differ at both ends.
pub(super) fn shorten_middle(text: &str, width: usize) -> Cow<'_, str> {
    if measure_text_width(text) <= width {
        return Cow::Borrowed(text);
    }
    let Some(kept) = width.checked_sub(1) else { return Cow::Borrowed("") };
    let take = |columns: usize, letters: &mut dyn Iterator<Item = char>| -> Vec<char> {
        let mut used = 0;
        let fits = |letter: &char| {
            used += measure_text_width(letter.encode_utf8(&mut [0; 4]));
            used <= columns
        };
        letters.take_while(fits).collect()
    };
    // The end has one column more, because it usually holds the seed.
    let end = take(kept.div_ceil(2), &mut text.chars().rev());
    let start = take(kept / 2, &mut text.chars());
    Cow::Owned(start.into_iter().chain(['…']).chain(end.into_iter().rev()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressBar, ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal of a fixed width that keeps what is drawn.
    #[derive(Clone, Debug)]
    struct Terminal {
        width: u16,
        drawn: Arc<Mutex<String>>,
    }

    impl Terminal {
        fn add(&self, text: &str) {
            self.drawn.lock().unwrap().push_str(text);
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            self.width
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.add(&format!("{text}\n"));
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.add(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.add("\n");
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_middle_of_a_name_is_replaced() {
        let shorten = |text: &str, width: usize| shorten_middle(text, width).into_owned();
        assert_eq!(shorten("eval@model=dpo", 14), "eval@model=dpo");
        assert_eq!(shorten("eval@mix=both,model=dpo,seed=11", 13), "eval@m…eed=11");
        assert_eq!(shorten("日本語日本語", 7), "日…語");
        assert_eq!(shorten("abc", 1), "…");
        assert_eq!(shorten("abc", 0), "");
        for width in 0..20 {
            assert!(measure_text_width(&shorten("eval@日本=語,seed=12345", width)) <= width);
        }
    }

    #[test]
    fn bars_fit_into_every_terminal() {
        let names = [
            "eval@mix=a-rather-long-mix,model=dpo-after-sft,prompt=direct,seed=3",
            "sft",
            "日本語日本語日本語日本語日本語",
        ];
        for (width, name) in [60, 80, 120].into_iter().flat_map(|width| names.map(|name| (width, name))) {
            let layout = BarLayout::for_width(usize::from(width));
            for style in [BarLayout::waiting(), layout.running(), layout.overall()] {
                let terminal = Terminal { width, drawn: Arc::default() };
                let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
                let bar = ProgressBar::with_draw_target(Some(400), target).with_style(style);
                bar.set_prefix(layout.name(name));
                bar.set_message(
                    "120/400 steps  2 min 30 s left  loss 0.1234  25.3k tok/s  {pos} more words than fit here",
                );
                bar.set_position(120);
                bar.tick();
                let drawn = terminal.drawn.lock().unwrap().clone();
                assert!(drawn.contains("120/400 ste"), "{width}: {drawn:?}");
                let widest = drawn.lines().map(measure_text_width).max();
                assert!(widest.is_some_and(|widest| widest <= usize::from(width)), "{width}: {drawn:?}");
            }
        }
    }
}
