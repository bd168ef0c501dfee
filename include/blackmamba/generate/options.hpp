#pragma once
/// \file
/// What generating and scoring are told, and what scoring answers: light enough for a program that only passes it on.

#include <cstdint>

#include <blackmamba/core/config.hpp>
#include <blackmamba/ops/sample/options.hpp>

namespace blackmamba {

/// How to continue a prompt.
struct GenerateOptions {
  Index max_new_tokens = 0;   ///< how many tokens each sequence gets
  Index batch = 1;            ///< independent continuations of the one prompt
  SampleOptions sample{};     ///< how a token is drawn; temperature 0 is greedy
  std::uint64_t seed = 0;     ///< of the draws: token t of continuation b is number t · batch + b of the stream
  Index prefill_chunk = 512;  ///< prompt tokens a forward pass: bounds the memory of long prompts
};

/// Sum and number of the losses -log p(target), natural logarithm; targets that are ignored are not counted.
struct Score {
  double sum = 0;
  Index count = 0;

  double mean() const { return count ? sum / static_cast<double>(count) : 0; }
};

/// How to score.
struct ScoreOptions {
  Index chunk = 0;  ///< tokens of a sequence a pass; the state carries over, so the result is that of one pass. 0: all at once
  Token ignore_index = -100;  ///< targets that are not scored
};

}  // namespace blackmamba
