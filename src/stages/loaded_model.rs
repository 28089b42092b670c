//! A checkpoint with its companion files: the conversation format that it was trained with, and its image processor.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::checkpoint_folders::CheckpointFolders;
use ablate_core::base::wrong_input;
use ablate_core::stage::StageContext;
use ablate_data::conversation::Conversation;
use ablate_data::image_text::ImageText;
use ablate_data::images::{ImageLoader, ImageProcessor, PatchSizes};
use ablate_data::tokenizer::{FILE, Tokenizer};
use ablate_data::tokens::{ChatEncoder, ImageTexts};
use ablate_nn::architecture::{DynamicVit, Family, Tower, Vision};
use ablate_nn::{Architecture, Checkpoint, ImageShape, PixelSource};

/// A checkpoint, its conversation format, and the images that its prompts may contain.
pub(super) struct LoadedModel {
    pub(super) checkpoint: Checkpoint,
    pub(super) chat: ChatEncoder,
    pub(super) images: Arc<ImageLoader>,
}

impl LoadedModel {
    /// Loads the checkpoint of a role, with the images of the stage's inputs.
    pub(super) fn load(ctx: &StageContext, role: &str) -> Result<LoadedModel> {
        let images = |processor| ImageLoader::open(&ctx.images, processor);
        let load = || LoadedModel::read(&CheckpointFolders::of_input(ctx, role)?, images);
        load().map_err(wrong_input).with_context(|| format!("`{role}`"))
    }

    /// Loads a folder in ablate's or Hugging Face's layout, or that of an adapter in a store, and checks that its files fit
    /// each other.
    pub(super) fn load_folder(
        folder: &Path,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<LoadedModel> {
        LoadedModel::read(&CheckpointFolders::of_path(folder)?, images)
    }

    fn read(
        folders: &CheckpointFolders,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<LoadedModel> {
        let folder = &folders.weights;
        if !folder.is_dir() {
            bail!("`{}` is not a folder; a checkpoint is a folder", folder.display());
        }
        LoadedModel::from_checkpoint(folders.read()?, folder, images)
    }

    /// Adds the companion files in `folder` to a checkpoint.
    pub(super) fn from_checkpoint(
        checkpoint: Checkpoint,
        folder: &Path,
        images: impl FnOnce(ImageProcessor) -> Result<ImageLoader>,
    ) -> Result<LoadedModel> {
        let Architecture { family: _, vision, decoder, vocab } = &checkpoint.architecture;
        let processor = match vision {
            // Never used: a language model takes no image.
            None => ImageProcessor::Square { size: 1 },
            Some(Vision { tower: Tower::Vit(vit), .. }) if checkpoint.is_own() => {
                ImageProcessor::Square { size: vit.image_size }
            }
            Some(vision) => {
                let processor = ImageProcessor::read(folder)?;
                check_processor(&processor, vision, &checkpoint).with_context(|| format!("`{}`", folder.display()))?;
                processor
            }
        };
        let images = Arc::new(images(processor)?);
        let texts: ImageTexts = {
            let (vision, images) = (vision.clone(), images.clone());
            Arc::new(move |key| match &vision {
                Some(vision) => {
                    let shape = images.shape(key)?;
                    images.processor().text(shape, vision.image_tokens(shape)?)
                }
                None => Ok(ImageText::default()),
            })
        };
        let chat = if checkpoint.is_own() {
            let tokenizer = Tokenizer::read(&folder.join(FILE))?;
            if tokenizer.vocab_size() != *vocab {
                bail!("the tokenizer has {} tokens, the model {vocab}", tokenizer.vocab_size());
            }
            ChatEncoder::new(tokenizer, texts, decoder.max_positions)?
        } else {
            let conversation = Conversation::read(folder)?;
            conversation.tokenizer().check_embedding_rows(*vocab).with_context(|| format!("`{}`", folder.display()))?;
            ChatEncoder::from_conversation(conversation, texts, decoder.max_positions)
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
}

/// Checks that the image processor produces the input of the vision tower.
fn check_processor(processor: &ImageProcessor, vision: &Vision, checkpoint: &Checkpoint) -> Result<()> {
    let expected = match &vision.tower {
        Tower::Vit(vit) => vit.image_size,
        Tower::Dynamic(vit) => return check_patches(processor, vit),
    };
    if processor.patches().is_some() {
        bail!(
            "the image processor produces images of any size, but the vision tower takes {expected} x {expected} pixels"
        );
    }
    // Of one tile, and of several tiles with different aspect ratios.
    let side = expected as u32;
    for (columns, rows) in [(1, 1), (3, 1), (1, 2)] {
        let shape = processor.shape(side * columns, side * rows)?;
        let ImageShape { tile: (high, wide), .. } = shape;
        if (high as usize, wide as usize) != (expected, expected) {
            bail!(
                "the image processor produces crops of {high} x {wide} pixels, but the vision tower takes \
                 {expected} x {expected}"
            );
        }
        let (of_processor, of_model) = (processor.resolutions(), checkpoint.resolutions());
        if vision.newlines && of_processor.as_deref() != Some(of_model) {
            bail!("the image processor has the grid resolutions {of_processor:?}, but the model has {of_model:?}");
        }
        if checkpoint.architecture.family == Family::Llava && !vision.newlines && shape.tiles > 1 {
            bail!("the image processor splits an image into several crops, but the model takes one");
        }
        processor.text(shape, vision.image_tokens(shape)?)?;
    }
    Ok(())
}

/// Checks that the image processor cuts images into the patches that the tower takes.
fn check_patches(processor: &ImageProcessor, vit: &DynamicVit) -> Result<()> {
    let Some(PatchSizes { patch, merge, frames }) = processor.patches() else {
        bail!("the vision tower takes images of any size, but the image processor produces crops of one size");
    };
    let (of_processor, of_model) =
        ([patch, merge, frames].map(|size| size as usize), [vit.patch_size, vit.merge, vit.frames]);
    let names = ["patch_size", "merge_size", "temporal_patch_size"];
    for ((name, of_processor), of_model) in names.iter().zip(of_processor).zip(of_model) {
        if of_processor != of_model {
            bail!("`{name}` is {of_processor} in the image processor, but {of_model} in the model");
        }
    }
    Ok(())
}

/// Image tokens of a tile; 0 for a language model.
pub(super) fn tile_tokens(architecture: &Architecture) -> usize {
    architecture.vision.as_ref().map_or(0, |vision| vision.tile_tokens(vision.own_tile()))
}

/// The reference's checkpoint. Fails unless it takes the same tokens and pixel values as the policy.
pub(super) fn check_reference(reference: LoadedModel, policy: &LoadedModel) -> Result<Checkpoint> {
    let tokens = |model: &Checkpoint| {
        let Architecture { vision, vocab, .. } = &model.architecture;
        (*vocab, vision.as_ref().map(|vision| vision.image_token), tile_tokens(&model.architecture))
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
    let family = |model: &LoadedModel| {
        let Architecture { family, vision, .. } = &model.checkpoint.architecture;
        vision.as_ref().map(|vision| (*family, vision.tower.vit().map(|vit| vit.family)))
    };
    let resolutions = |model: &LoadedModel| model.checkpoint.resolutions().to_vec();
    let vision = |model: &LoadedModel| (family(model), resolutions(model));
    if vision(&reference) != vision(policy) || reference.images.processor() != policy.images.processor() {
        return Err(wrong_input(anyhow!("`reference` and `policy` have different image processors")));
    }
    Ok(reference.checkpoint)
}
