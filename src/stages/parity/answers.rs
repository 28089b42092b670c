//! Generated answers: transformers' greedy ones by both paths, and sampled ones that depend on no neighbour.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{RESOURCES, Subject};
use ablate_core::base::Seed;
use ablate_data::conversation::parity::Tally;
use ablate_data::records::Finish;
use ablate_data::tokens::Prompt;
use ablate_nn::infer::{self, GenerateConfig, Generated, generate};
use ablate_nn::Resources;
use ablate_nn::parity::root;

/// Cases that are also continued without a cache, which takes long.
const BY_WHOLE_PASSES: [&str; 3] = ["llava-next", "llava-siglip", "qwen3"];

fn config(subject: &Subject, temperature: f64, samples: usize) -> GenerateConfig {
    let stop = subject.model.chat.stop_tokens().to_vec();
    GenerateConfig {
        temperature,
        top_k: 0,
        top_p: 1.0,
        max_tokens: 64,
        samples,
        stop,
        repetition_penalty: 1.0,
        batch: 16,
    }
}

fn run(subject: &Subject, prompts: &[Prompt], config: &GenerateConfig, threads: usize) -> Result<Vec<Vec<Generated>>> {
    let mut found = BTreeMap::new();
    let (model, images) = (&subject.model.checkpoint, subject.images());
    let resources = Resources { threads, ..RESOURCES };
    generate(model, prompts, images, config, Seed(5), &|_, _, _| false, &resources, &mut |index, responses| {
        found.insert(index, responses);
        Ok(())
    })?;
    Ok(found.into_values().collect())
}

/// The answers that transformers gives, token by token and as text.
pub(super) fn greedy(subject: &Subject) -> Result<Tally> {
    let texts: Vec<_> = subject.case.expected.sequences.iter().filter(|(_, text)| text.greedy.is_some()).collect();
    let prompt = |(name, text): &(&String, &ablate_nn::parity::Text)| Prompt {
        key: (*name).clone(),
        tokens: text.ids.clone(),
        image: text.image().map(str::to_string),
    };
    let prompts: Vec<Prompt> = texts.iter().map(prompt).collect();
    let config = config(subject, 0.0, 1);
    let mut answers = vec![("with a cache", run(subject, &prompts, &config, 1)?)];
    if BY_WHOLE_PASSES.iter().any(|name| subject.case.folder.ends_with(name)) {
        let model = &subject.model.checkpoint;
        let whole = infer::parity::by_whole_passes(model, &prompts, subject.images(), &config, &RESOURCES)?;
        answers.push(("by whole passes", whole));
    }
    let mut tally = Tally { right: 0, wrong: Vec::new() };
    for (path, answers) in answers {
        for ((name, text), answer) in texts.iter().zip(answers) {
            let Generated { tokens, finish, .. } = &answer[0];
            let (mut wanted, mut ended) = (text.greedy.clone().unwrap_or_default(), Finish::Length);
            if wanted.last().is_some_and(|last| config.stop.contains(last)) {
                wanted.pop();
                ended = Finish::Stop;
            }
            let said = subject.words.text(tokens)?;
            if (tokens, *finish) != (&wanted, ended) {
                tally.wrong.push(format!("`{name}` {path}: {tokens:?}, {finish:?}, and not {wanted:?}, {ended:?}"));
            } else if Some(&said) != text.answer.as_ref() {
                tally.wrong.push(format!("`{name}` {path}: {said:?}, and not {:?}", text.answer));
            } else {
                tally.right += 1;
            }
        }
    }
    Ok(tally)
}

#[test]
fn a_sampled_answer_depends_on_no_neighbour() {
    for name in ["llava-next", "llava", "qwen2"] {
        let subject = Subject::open(&root().join(name)).unwrap();
        let images: Vec<Option<&str>> =
            subject.case.expected.images.keys().map(|name| Some(name.as_str())).chain([None, None]).collect();
        let prompts: Vec<Prompt> = images
            .iter()
            .enumerate()
            .map(|(index, image)| {
                let text = "What is it? ".repeat(index + 1);
                subject.model.chat.prompt(&format!("{name} {index}"), &text, *image).unwrap()
            })
            .collect();
        let config = config(&subject, 1.0, 2);
        let together = run(&subject, &prompts, &config, 1).unwrap();
        assert_eq!(run(&subject, &prompts, &config, 2).unwrap(), together, "{name}");
        for (prompt, answers) in prompts.iter().zip(&together) {
            let alone = run(&subject, std::slice::from_ref(prompt), &config, 1).unwrap();
            assert_eq!(&alone[0], answers, "{name}: `{}`", prompt.key);
            assert_ne!(answers[0], answers[1], "{name}: `{}`", prompt.key);
        }
    }
}
