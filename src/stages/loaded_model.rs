//! A checkpoint with its companion files: the conversation format that it was trained with, and its image processor.

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

/// A checkpoint, its conversation format, and the images that its prompts may contain.
pub(super) struct LoadedModel {
    pub(super) checkpoint: Checkpoint,
    pub(super) chat: ChatEncoder,
    pub(super) images: Arc<ImageLoader>,
}

/// Files of a Hugging Face folder that define the conversation format and the image processor. They are copied with the
/// weights.
const COMPANION_FILES: &[&str] = &[
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

impl LoadedModel {
    /// Loads the checkpoint of a role, with the images of the stage's inputs.
    pub(super) fn load(ctx: &StageContext, role: &str) -> Result<LoadedModel> {
        let folder = &ctx.input(role)?.path;
        let images = |processor| ImageLoader::open(&ctx.images, processor);
        LoadedModel::load_folder(folder, images).map_err(wrong_input).with_context(|| format!("`{role}`"))
    }

    /// Loads a folder in ablate's or Hugging Face's layout, and checks that its files fit each other.
    pub(super) fn load_folder(
        folder: &Path,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<LoadedModel> {
        if !folder.is_dir() {
            bail!("`{}` is not a folder; a checkpoint is a folder", folder.display());
        }
        LoadedModel::from_checkpoint(Checkpoint::read(folder)?, folder, images)
    }

    /// Adds the companion files in `folder` to a checkpoint.
    pub(super) fn from_checkpoint(
        checkpoint: Checkpoint,
        folder: &Path,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<LoadedModel> {
        let Architecture { vision, decoder, vocab } = &checkpoint.architecture;
        let processor = match vision {
            // Never used: a language model takes no image.
            None => ImageProcessor::Square { size: 1 },
            Some(vision) if checkpoint.is_own() => ImageProcessor::Square { size: vision.image_size },
            Some(vision) => {
                let processor = ImageProcessor::read(folder)?;
                check_processor(&processor, vision, &checkpoint).with_context(|| format!("`{}`", folder.display()))?;
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
        let (model_token, tokenizer_token) = (vision.as_ref().map(|vision| vision.image_token), chat.image_token());
        if model_token.is_some() && model_token != tokenizer_token {
            let name = |token: Option<u32>| token.map_or_else(|| "none".to_string(), |token| token.to_string());
            bail!(
                "the id of the image token is {} in the tokenizer, but {} in the model",
                name(tokenizer_token),
                name(model_token)
            );
        }
        Ok(LoadedModel { checkpoint, chat, images })
    }

    /// Writes `checkpoint` to a folder, with the companion files of the model in `from`.
    pub(super) fn write(checkpoint: &Checkpoint, from: &Path, folder: &Path) -> Result<()> {
        checkpoint.write(folder)?;
        copy_companion_files(checkpoint, from, folder)
    }
}

/// Copies the companion files of a model.
pub(super) fn copy_companion_files(checkpoint: &Checkpoint, from: &Path, to: &Path) -> Result<()> {
    let names = if checkpoint.is_own() { &[FILE] } else { COMPANION_FILES };
    for name in names.iter().filter(|name| from.join(name).is_file()) {
        files::copy(&from.join(name), &to.join(name))?;
    }
    Ok(())
}

/// Checks that the image processor produces the input of the vision tower.
fn check_processor(processor: &ImageProcessor, vision: &Vision, checkpoint: &Checkpoint) -> Result<()> {
    let (produced, expected) = (processor.size(), vision.image_size);
    if produced != expected {
        bail!(
            "the image processor produces crops of {produced} x {produced} pixels, but the vision tower takes \
             {expected} x {expected}"
        );
    }
    let (of_processor, of_model) = (processor.resolutions(), checkpoint.resolutions());
    if vision.tiled && of_processor.as_deref() != Some(of_model) {
        bail!("the image processor has the grid resolutions {of_processor:?}, but the model has {of_model:?}");
    }
    if !vision.tiled && of_processor.is_some() {
        bail!("the image processor splits an image into several crops, but the model takes one");
    }
    Ok(())
}

/// The reference's checkpoint. Fails unless it takes the same tokens and pixel values as the policy.
pub(super) fn check_reference(reference: LoadedModel, policy: &LoadedModel) -> Result<Checkpoint> {
    let tokens = |model: &Checkpoint| {
        let Architecture { vision, vocab, .. } = &model.architecture;
        (*vocab, vision.as_ref().map(|vision| vision.image_token), vision.as_ref().map_or(0, Vision::tile_tokens))
    };
    let (of_policy, of_reference) = (tokens(&policy.checkpoint), tokens(&reference.checkpoint));
    if of_policy != of_reference {
        return Err(wrong_input(anyhow!(
            "`reference` and `policy` take different tokens: the reference has {} tokens and {} per image, the policy {} \
             and {}",
            of_reference.0,
            of_reference.2,
            of_policy.0,
            of_policy.2
        )));
    }
    let family = |model: &LoadedModel| model.checkpoint.architecture.vision.as_ref().map(|vision| vision.family);
    let resolutions = |model: &LoadedModel| model.checkpoint.resolutions().to_vec();
    let vision = |model: &LoadedModel| (family(model), resolutions(model));
    if vision(&reference) != vision(policy) || reference.images.processor() != policy.images.processor() {
        return Err(wrong_input(anyhow!("`reference` and `policy` have different image processors")));
    }
    Ok(reference.checkpoint)
}

/// Copies the training index of a model, if it has one.
pub(super) fn copy_training_index(from: &Path, to: &Path) -> Result<()> {
    TrainingIndex::read(from).map_err(wrong_input)?.map_or(Ok(()), |index| index.write(to))
}
