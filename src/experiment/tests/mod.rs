//! Whole experiments in, whole messages and instance names out. Stages are toys that run nothing.

mod expansion;
mod toy;
