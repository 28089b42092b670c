//! What stands for an image in a conversation: texts, and runs of the image token, one token per feature.

/// What stands for an image in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageText {
    /// The text before each run, and the length of the run.
    pub(crate) runs: Vec<(String, usize)>,
    /// The text after the last run.
    pub(crate) end: String,
}

impl ImageText {
    /// One run of image tokens.
    pub fn run(length: usize) -> ImageText {
        ImageText { runs: vec![(String::new(), length)], end: String::new() }
    }

    /// The number of image tokens.
    pub fn tokens(&self) -> usize {
        self.runs.iter().map(|(_, length)| length).sum()
    }

    /// The text with `token` once per run.
    pub(crate) fn with_runs_as(&self, token: &str) -> String {
        let mut text: String = self.runs.iter().flat_map(|(before, _)| [before.as_str(), token]).collect();
        text.push_str(&self.end);
        text
    }
}
