// A training run in any scalar, on any device: for programs that offer them all, and are willing to be compiled for as long.

#include "support/training.hpp"

namespace program {

std::unique_ptr<Training> begin_training(TrainingSettings const& s, io::ModelConfig const& config, Text const& text) {
  if (s.dtype == "f32") return begin_training_in<float>(s, config, text);
  if (s.dtype == "f64") return begin_training_in<double>(s, config, text);
  if (s.dtype == "bf16") return begin_training_in<bf16>(s, config, text);
  if (s.dtype == "f16") return begin_training_in<half>(s, config, text);
  throw value_error(concat("there is no scalar '", s.dtype, "'; there are: f32, f64, bf16, f16"));
}

}  // namespace program
