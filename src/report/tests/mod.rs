mod mixture;
mod report;
mod support;
mod validity;
