//! Single operations on a GPU, real or emulated, against the CPU's kernels.

mod attention;
