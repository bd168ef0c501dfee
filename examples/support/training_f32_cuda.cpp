#include <blackmamba/cuda.cuh>

#include "support/training_as.hpp"

template std::unique_ptr<program::Training> program::begin_training_as<float, blackmamba::Cuda>(program::TrainingSettings const&,
                                                                                                blackmamba::io::ModelConfig const&,
                                                                                                program::Text const&);
