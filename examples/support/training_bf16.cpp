#include "support/training_as.hpp"

template std::unique_ptr<program::Training> program::begin_training_as<blackmamba::bf16, blackmamba::Cpu>(
    program::TrainingSettings const&, blackmamba::io::ModelConfig const&, program::Text const&);
