#pragma once
/// \file
/// The learning rate of every step.

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// What follows the warm-up.
enum class ScheduleKind {
  constant,      ///< the peak, for ever
  cosine,        ///< half a cosine from the peak to the floor
  stable_decay,  ///< the peak, and over the last `decay` steps down to the floor
};

/// Learning rates of a run: a linear warm-up, then one of three courses. With n = step, W = warmup, N = steps, C = decay,
///
///   n < W                     peak (n + 1) / (W + 1)
///   constant                  peak
///   cosine                    floor + (peak - floor) (1 + cos(π (n - W) / (N - W))) / 2
///   stable_decay, n > N - C   floor + (peak - floor) (1 - √((n - N + C) / C)) ; before that peak
///
/// so no step is wasted on a rate of 0, step W is the first at the peak, and the floor is reached where step N would be; from there
/// on the rate stays. The decay is 1 - sqrt and not linear because Hägele et al. find it the better of the two at equal length: it
/// comes down fast while the rate is high and spends more steps near the floor. Sources: Loshchilov & Hutter 2017, arXiv:1608.03983
/// (cosine); Hu et al. 2024, arXiv:2404.06395 (warm-up, stable, decay); Hägele et al. 2024, arXiv:2405.18392 (1 - sqrt).
struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double peak = 1e-3;
  double floor = 0;
  Index warmup = 0;  ///< steps before the peak
  Index steps = 0;   ///< of the run; `constant` does not ask
  Index decay = 0;   ///< steps of the final decay, of `stable_decay` only

  /// The rate of step `step`, the first being 0. Throws `value_error` on a negative step.
  double at(Index step) const {
    check_value(step >= 0, "schedule", "step is ", step, ", not at least 0");
    if (step < warmup) return peak * (static_cast<double>(step + 1) / static_cast<double>(warmup + 1));
    switch (kind) {
      case ScheduleKind::constant:
        break;
      case ScheduleKind::cosine: {
        if (step >= steps) return floor;
        constexpr double pi = 3.14159265358979323846;
        return between((1 + std::cos(pi * share(step - warmup, steps - warmup))) / 2);
      }
      case ScheduleKind::stable_decay:
        if (step >= steps) return floor;
        if (step > steps - decay) return between(1 - std::sqrt(share(step - (steps - decay), decay)));
        break;
    }
    return peak;
  }

  friend constexpr bool operator==(Schedule const&, Schedule const&) = default;

 private:
  static double share(Index part, Index whole) { return static_cast<double>(part) / static_cast<double>(whole); }
  double between(double x) const { return floor + (peak - floor) * x; }
};

/// Throws `value_error` naming the first number of a schedule that makes no sense.
inline void check_schedule(Schedule const& s) {
  constexpr char const* op = "schedule";
  check_value(s.peak >= 0 && std::isfinite(s.peak), op, "peak is ", s.peak, ", not a rate");
  check_value(s.floor >= 0 && s.floor <= s.peak, op, "floor is ", s.floor, ", not in [0, ", s.peak, "]");
  check_value(s.warmup >= 0, op, "warmup is ", s.warmup, ", not at least 0");
  if (s.kind == ScheduleKind::constant) return;
  check_value(s.steps >= s.warmup, op, "steps is ", s.steps, ", fewer than the ", s.warmup, " of the warm-up");
  if (s.kind == ScheduleKind::cosine) return;
  check_value(s.decay >= 0 && s.decay <= s.steps - s.warmup, op, "decay is ", s.decay, ", not in [0, ", s.steps - s.warmup,
              "], which the warm-up leaves of ", s.steps, " steps");
}

/// Names that `schedule_from_name` knows, in the order of the kinds.
inline std::vector<std::string_view> schedule_names() { return {"constant", "cosine", "wsd"}; }

inline std::string_view schedule_name(ScheduleKind kind) { return schedule_names()[static_cast<std::size_t>(kind)]; }

/// The kind of that name. Throws `value_error` listing the names there are.
inline ScheduleKind schedule_from_name(std::string_view name) {
  std::string known;
  auto const names = schedule_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<ScheduleKind>(i);
    known += concat(known.empty() ? "" : ", ", names[i]);
  }
  throw value_error(concat("there is no schedule '", name, "'; there are: ", known));
}

}  // namespace blackmamba
