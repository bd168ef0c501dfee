#pragma once
/// \file
/// How the next token is chosen.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// Filters and shape of the distribution that a token is drawn from. The defaults draw from softmax(logits) as it is.
///
/// They are applied in the order of the members' steps, each to what the steps before it left:
///   1. repetition_penalty   2. temperature   3. top_k   4. top_p   5. min_p
struct SampleOptions {
  /// Logits are divided by it; 0 takes the largest logit (the lowest token on a tie) and ignores the filters.
  double temperature = 1;
  /// The k most probable tokens stay, of equals those of the lower index; 0 keeps all.
  Index top_k = 0;
  /// The nucleus: the most probable tokens, equals by index, up to the first at which their share reaches p. 0 < p ≤ 1.
  double top_p = 1;
  /// Tokens stay whose probability is at least this share of the largest one. 0 ≤ min_p ≤ 1.
  double min_p = 0;
  /// The logit of every token in the history is divided by it if positive, multiplied if negative, once each. > 0.
  double repetition_penalty = 1;
};

/// Throws `value_error` with the value of the first option that is outside its domain.
inline void check(SampleOptions const& o, char const* op) {
  check_value(o.temperature >= 0 && isfinite(o.temperature), op, "temperature is ", o.temperature, ", not finite and at least 0");
  check_value(o.top_k >= 0, op, "top_k is ", o.top_k, ", not at least 0");
  check_value(o.top_p > 0 && o.top_p <= 1, op, "top_p is ", o.top_p, ", not in (0, 1]");
  check_value(o.min_p >= 0 && o.min_p <= 1, op, "min_p is ", o.min_p, ", not in [0, 1]");
  check_value(o.repetition_penalty > 0 && isfinite(o.repetition_penalty), op, "repetition_penalty is ", o.repetition_penalty,
              ", not finite and greater than 0");
}

}  // namespace blackmamba
