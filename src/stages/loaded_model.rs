//! A checkpoint with everything that came with it: how it is spoken to, and how it sees. Knows no kind.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use ablate_core::base::{files, wrong_input};
use ablate_core::stage::StageContext;
use ablate_data::contamination::TrainingIndex;
use ablate_data::conversation::Conversation;
use ablate_data::images::ImageLoader;
use ablate_data::images::ImageProcessor;
use ablate_data::tokenizer::{FILE, Tokenizer};
use ablate_data::tokens::{ChatEncoder, ImageTokens};
use ablate_nn::architecture::Vision;
use ablate_nn::{Architecture, Checkpoint, PixelSource};

/// A checkpoint, the conversation that it was trained for, and the images that it may be asked about.
pub(super) struct Model {
    pub(super) checkpoint: Checkpoint,
    pub(super) chat: ChatEncoder,
    pub(super) images: Arc<ImageLoader>,
}

/// Files of a Hugging Face folder that say how a model is spoken to and how it sees. They go where the model goes.
const COMPANIONS: &[&str] = &[
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
];

impl Model {
    /// Reads the checkpoint of a role, to be asked about the images of the stage's inputs.
    pub(super) fn read(ctx: &StageContext, role: &str) -> Result<Model> {
        let folder = &ctx.input(role)?.path;
        let images = |processor| ImageLoader::open(&ctx.images, processor);
        Model::open(folder, images).map_err(wrong_input).with_context(|| format!("`{role}`"))
    }

    /// Reads a folder, ours or Hugging Face's, and checks that its parts fit each other.
    pub(super) fn open(folder: &Path, images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>) -> Result<Model> {
        if !folder.is_dir() {
            bail!("`{}` is not a folder: a checkpoint is one", folder.display());
        }
        Model::around(Checkpoint::read(folder)?, folder, images)
    }

    /// The same around a checkpoint that is there already.
    pub(super) fn around(
        checkpoint: Checkpoint,
        folder: &Path,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<Model> {
        let Architecture { vision, decoder, vocab } = &checkpoint.architecture;
        let processor = match vision {
            // Nothing is ever asked of it: a model without eyes takes no image.
            None => ImageProcessor::Square { size: 1 },
            Some(vision) if checkpoint.is_own() => ImageProcessor::Square { size: vision.image_size },
            Some(vision) => {
                let processor = ImageProcessor::read(folder)?;
                fits(&processor, vision, &checkpoint).with_context(|| format!("`{}`", folder.display()))?;
                processor
            }
        };
        let images = Arc::new(images(processor)?);
        let count: ImageTokens = {
            let (vision, images) = (vision.clone(), images.clone());
            Arc::new(move |key| vision.as_ref().map_or(Ok(0), |vision| vision.image_tokens(images.shape(key)?)))
        };
        let chat = if checkpoint.is_own() {
            let tokenizer = Tokenizer::read(&folder.join(FILE))?;
            if tokenizer.vocab_size() != *vocab {
                bail!("the tokenizer has {} tokens, the model {vocab}", tokenizer.vocab_size());
            }
            ChatEncoder::new(tokenizer, count, decoder.max_positions)?
        } else {
            let conversation = Conversation::read(folder)?;
            conversation.tokenizer().check_embedding_rows(*vocab).with_context(|| format!("`{}`", folder.display()))?;
            ChatEncoder::from_conversation(conversation, count, decoder.max_positions)
        };
        let (wanted, found) = (vision.as_ref().map(|vision| vision.image_token), chat.image_token());
        if wanted.is_some() && wanted != found {
            let name = |token: Option<u32>| token.map_or_else(|| "none".to_string(), |token| token.to_string());
            bail!("the image token is {} to the tokenizer, and {} to the model", name(found), name(wanted));
        }
        Ok(Model { checkpoint, chat, images })
    }

    /// Writes `checkpoint` into a folder, with what came with the model in `from`.
    pub(super) fn write(checkpoint: &Checkpoint, from: &Path, folder: &Path) -> Result<()> {
        checkpoint.write(folder)?;
        carry_companions(checkpoint, from, folder)
    }
}

/// Copies what a model needs besides its sizes and weights.
pub(super) fn carry_companions(checkpoint: &Checkpoint, from: &Path, to: &Path) -> Result<()> {
    let names = if checkpoint.is_own() { &[FILE] } else { COMPANIONS };
    for name in names.iter().filter(|name| from.join(name).is_file()) {
        files::copy(&from.join(name), &to.join(name))?;
    }
    Ok(())
}

/// Whether an image processor makes what the encoder reads.
fn fits(processor: &ImageProcessor, vision: &Vision, checkpoint: &Checkpoint) -> Result<()> {
    let (made, read) = (processor.size(), vision.image_size);
    if made != read {
        bail!("the image processor makes tiles of {made} x {made} pixels, and the encoder reads {read} x {read}");
    }
    let (cut, laid) = (processor.resolutions(), checkpoint.resolutions());
    if vision.tiled && cut.as_deref() != Some(laid) {
        bail!("the image processor cuts images for the resolutions {cut:?}, and the model lays them out for {laid:?}");
    }
    if !vision.tiled && cut.is_some() {
        bail!("the image processor cuts images into tiles, and the model reads one");
    }
    Ok(())
}

/// The reference, if it reads the same tokens and sees the same pixels as the policy.
pub(super) fn comparable(reference: Model, policy: &Model) -> Result<Checkpoint> {
    let reads = |model: &Checkpoint| {
        let Architecture { vision, vocab, .. } = &model.architecture;
        (*vocab, vision.as_ref().map(|vision| vision.image_token), vision.as_ref().map_or(0, Vision::tile_tokens))
    };
    let (own, other) = (reads(&policy.checkpoint), reads(&reference.checkpoint));
    if own != other {
        return Err(wrong_input(anyhow!(
            "`reference` does not read what `policy` reads: it has {} tokens and {} per image, the policy {} and {}",
            other.0,
            other.2,
            own.0,
            own.2
        )));
    }
    let family = |model: &Model| model.checkpoint.architecture.vision.as_ref().map(|vision| vision.family);
    let resolutions = |model: &Model| model.checkpoint.resolutions().to_vec();
    let eyes = |model: &Model| (family(model), resolutions(model));
    if eyes(&reference) != eyes(policy) || reference.images.processor() != policy.images.processor() {
        return Err(wrong_input(anyhow!("`reference` does not see images as `policy` does: their processors differ")));
    }
    Ok(reference.checkpoint)
}

/// What a checkpoint has seen goes with it, where that is known.
pub(super) fn carry_seen(from: &Path, to: &Path) -> Result<()> {
    TrainingIndex::read(from).map_err(wrong_input)?.map_or(Ok(()), |seen| seen.write(to))
}
