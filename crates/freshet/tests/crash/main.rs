//! What is left when a run does not come to its end: killed processes, and power cuts.

mod kills;
mod mutants;
mod power;
mod shop;
