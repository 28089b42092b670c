//! Generation on a GPU: keys and values, sampled tokens and logits stay there. A step copies 36 bytes per sequence to the GPU, in one
//! copy, and 4 bytes back.

use std::rc::Rc;

use anyhow::Result;

use super::attention::AttentionPlan;
use super::gather::embed_tokens;
use super::gpu::Gpu;
use super::kv_cache::{CacheWriter, KvCache};
use super::memory::{Buffer, Part};
use super::products::Product;
use super::sampler::{Sampler, Slots};
use super::state::CudaOps;
use super::tensor::CudaTensor;
use super::weights::CudaWeights;
use crate::deepstack::Deepstack;
use crate::infer::GenerateConfig;
use crate::infer::decoder::{Continuation, Draw, NewPrompt, SequenceDecoder};
use crate::kernels::matmul::Accumulate;
use crate::layers::ForwardPass;
use crate::model::Model;
use crate::{Architecture, Batch};
#[cfg(feature = "cuda")]
use crate::{Checkpoint, Precision, trainable_model::TrainableModel};

/// A model on a GPU, with the sequences that it continues.
pub(crate) struct CudaDecoder {
    gpu: Gpu,
    model: Model<CudaWeights>,
    sampler: Sampler,
    layers: usize,
    /// The largest number of positions of a sequence.
    positions: usize,
    reserved: Option<Reserved>,
}

/// The memory of sequences.
struct Reserved {
    cache: Rc<KvCache>,
    slots: Slots,
    /// The number of slots.
    capacity: usize,
}

impl CudaDecoder {
    /// For sequences of at most `positions` tokens, sampled as in `config`.
    #[cfg(feature = "cuda")]
    pub(crate) fn open(
        model: &Checkpoint,
        config: &GenerateConfig,
        ordinal: usize,
        precision: Precision,
        positions: usize,
    ) -> Result<CudaDecoder> {
        let gpu = Gpu::open(ordinal, precision)?;
        let weights = Model::new(&CudaWeights(gpu.clone()), &TrainableModel::frozen(model))?;
        Ok(CudaDecoder::new(gpu, weights, &model.architecture, config, positions))
    }

    /// With a model that is on a GPU.
    pub(crate) fn new(
        gpu: Gpu,
        model: Model<CudaWeights>,
        architecture: &Architecture,
        config: &GenerateConfig,
        positions: usize,
    ) -> CudaDecoder {
        let (layers, sampler) = (architecture.decoder.layers, Sampler::new(architecture, config));
        CudaDecoder { gpu, model, sampler, layers, positions, reserved: None }
    }

    /// Hidden states (n, dim) -> logits (n, v) in f32.
    fn logits(&self, ops: &CudaOps, hidden: &CudaTensor) -> Result<Rc<Buffer>> {
        let (head, n) = (self.model.head(), hidden.rows());
        let logits = self.gpu.allocate(n * head.rows * size_of::<f32>())?;
        let inner = ops.inner(hidden)?;
        let product = Product::wide(&inner, &head.values, &logits, Accumulate::No);
        self.gpu.product_transposed(&product, n, head.rows, head.columns)?;
        Ok(logits)
    }

    fn reserved(&self) -> &Reserved {
        self.reserved.as_ref().unwrap_or_else(|| panic!("BUG: no memory is reserved"))
    }
}

impl SequenceDecoder for CudaDecoder {
    fn places_that_fit(&self) -> Result<usize> {
        // A quarter is left for the other tensors.
        let bytes = KvCache::place_bytes(&self.gpu, self.layers, self.model.attention.heads.key());
        Ok(self.gpu.free_memory()? / 4 * 3 / bytes.max(1))
    }

    fn reserve(&mut self, places: usize, slots: usize) -> Result<()> {
        self.reserved = None;
        let cache = Rc::new(KvCache::new(&self.gpu, self.layers, places, self.model.attention.heads.key())?);
        self.reserved = Some(Reserved { cache, slots: self.sampler.slots(&self.gpu, slots)?, capacity: slots });
        Ok(())
    }

    fn prefill(&mut self, batch: &Batch, prompts: &[NewPrompt]) -> Result<Vec<u32>> {
        let (gpu, Reserved { cache, slots, .. }) = (&self.gpu, self.reserved());
        let places: Vec<i32> =
            prompts.iter().flat_map(|prompt| prompt.places.clone()).map(|place| place as i32).collect();
        let mut ops = CudaOps::with(gpu, None, Some(CacheWriter::new(cache, gpu.upload(&places)?)));
        let last = self.model.hidden(&mut ops, batch, false)?;
        let logits = self.logits(&ops, &last)?;
        // Each sequence has its own row of logits.
        let prompt_of = |(row, prompt): (usize, &NewPrompt)| std::iter::repeat_n(row as i32, prompt.draws.len());
        let rows: Vec<i32> = prompts.iter().enumerate().flat_map(prompt_of).collect();
        let (n, vocab) = (rows.len(), self.model.head().rows);
        let (indices, repeated) = (gpu.upload(&rows)?, gpu.allocate(n * vocab * size_of::<f32>())?);
        gpu.rows("select_rows", n, vocab, &[(&logits).into(), (&indices).into(), (&repeated).into(), vocab.into()])?;
        let draws: Vec<Draw> = prompts.iter().flat_map(|prompt| prompt.draws.iter().copied()).collect();
        let uniforms: Vec<f64> = draws.iter().map(|draw| draw.uniform).collect();
        let row_slots: Vec<i32> = draws.iter().map(|draw| draw.slot as i32).collect();
        let (uniforms, row_slots) = (gpu.upload(&uniforms)?.into(), gpu.upload(&row_slots)?.into());
        let tokens: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.tokens).collect();
        self.sampler.start(gpu, slots, &tokens, &rows, &row_slots)?;
        self.sampler.sample(gpu, slots, &repeated, &uniforms, &row_slots, n)
    }

    fn step(&mut self, sequences: &[Continuation]) -> Result<Vec<u32>> {
        let (gpu, count) = (&self.gpu, sequences.len());
        let Reserved { cache, slots, capacity } = self.reserved();
        gpu.with_capacity(count, *capacity, || {
            let StepInputs { cached, uniforms, positions, places, row_slots } = StepInputs::upload(gpu, sequences)?;
            let mut ops = CudaOps::with(gpu, None, Some(CacheWriter::new(cache, places)));
            let (embedding, scale) = self.model.embedding();
            let x = embed_tokens(gpu, embedding, scale, &slots.tokens, &row_slots, count)?;
            let plans = self.model.attention.plans(|rotary, window| {
                let (heads, table) = (self.model.attention.heads, rotary.table(self.positions));
                AttentionPlan::step(gpu, heads, &table, positions.clone(), cached.clone(), window)
            })?;
            let mut pass = ForwardPass { ops: &mut ops, dropout: None };
            let hidden = self.model.decode(&mut pass, x, &plans, &Deepstack::none(), None)?;
            let logits = self.logits(&ops, &hidden)?;
            self.sampler.sample(gpu, slots, &logits, &uniforms, &row_slots, count)
        })
    }
}

/// What a step reads, per sequence.
struct StepInputs {
    /// A `CachedSequence` of `decode.cuh`.
    cached: Part,
    /// f64.
    uniforms: Part,
    /// Position and place of the token, and the slot: `int`.
    positions: Part,
    places: Part,
    row_slots: Part,
}

impl StepInputs {
    /// All in one buffer, by one copy.
    fn upload(gpu: &Gpu, sequences: &[Continuation]) -> Result<StepInputs> {
        /// The words of a sequence in each part.
        const WORDS: [usize; 5] = [4, 2, 1, 1, 1];
        let mut words: Vec<u32> = Vec::with_capacity(sequences.len() * WORDS.iter().sum::<usize>());
        for Continuation { cached, .. } in sequences {
            let numbers = [cached.prompt, cached.prompt_length, cached.own, cached.own_length];
            words.extend(numbers.map(|number| number as u32));
        }
        for Continuation { draw, .. } in sequences {
            let bits = draw.uniform.to_bits();
            words.extend([bits as u32, (bits >> 32) as u32]);
        }
        words.extend(sequences.iter().map(|sequence| sequence.position() as u32));
        words.extend(sequences.iter().map(|sequence| sequence.place() as u32));
        words.extend(sequences.iter().map(|sequence| sequence.draw.slot as u32));
        let buffer = gpu.upload(&words)?;
        let mut start = 0;
        let [cached, uniforms, positions, places, row_slots] = WORDS.map(|words| {
            let part = Part::new(&buffer, start);
            start += words * sequences.len() * size_of::<u32>();
            part
        });
        Ok(StepInputs { cached, uniforms, positions, places, row_slots })
    }
}
