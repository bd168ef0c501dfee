#pragma once
/// \file
/// One step of AdamW over flat arrays.

#include <cmath>
#include <limits>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/adamw/scalars.hpp>

namespace blackmamba {

/// A range of a flat array that is trained, and whether weight decay applies to it.
struct AdamWSegment {
  Index offset = 0, elements = 0;
  bool decays = true;
  friend constexpr bool operator==(AdamWSegment const&, AdamWSegment const&) = default;
};

/// Arguments of `adamw`. `T` is the storage scalar of the weights, A = accumulator_t<T> that of everything else.
template <Scalar T>
struct AdamWArgs {
  View<accumulator_t<T>, 1> master{};          ///< (n) in, out: the weights in full precision
  View<accumulator_t<T> const, 1> gradient{};  ///< (n)
  View<accumulator_t<T>, 1> first{};           ///< (n) in, out: the moments, zeros before the first step
  View<accumulator_t<T>, 1> second{};          ///< (n) in, out
  View<T, 1> weights{};                        ///< (n) optional out: the masters, rounded
  View<AdamWSegment const, 1> segments{};      ///< (S) on the host, ascending and disjoint
  Index step = 1;                              ///< which one this is, from 1 on: the moments' bias depends on it
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;  ///< multiplies the gradient first: clipping, and the mean over accumulated passes
  /// (1) optional, as `adamw_clip` leaves it: it says whether the step is made, and with which `step`, `learning_rate` and
  /// `gradient_scale` (its own and the clip factor), instead of the three above.
  View<AdamWScalars const, 1> scalars{};
};

namespace detail {

/// What one step multiplies by, the same for every element.
template <class A>
struct AdamWFactors {
  A scale, beta1, rest1, beta2, rest2;
  A rate;        ///< η / (1 - β₁ᵗ)
  A correction;  ///< 1 / √(1 - β₂ᵗ)
  A epsilon;
  A decay;  ///< η λ
  bool decays;

  template <class T>
  explicit AdamWFactors(AdamWArgs<T> const& a) : AdamWFactors{a, a.step, a.learning_rate, a.gradient_scale} {}
  template <class T>
  BLACKMAMBA_HOST_DEVICE AdamWFactors(AdamWArgs<T> const& a, AdamWScalars const& s)
      : AdamWFactors{a, s.steps, s.learning_rate, s.gradient_scale * s.clip_factor} {}

  /// 1 - βᵗ without cancellation.
  BLACKMAMBA_HOST_DEVICE static double unbiased(double beta, Index step) {
    return -::expm1(static_cast<double>(step) * ::log(beta));
  }

 private:
  template <class T>
  BLACKMAMBA_HOST_DEVICE AdamWFactors(AdamWArgs<T> const& a, Index step, double learning_rate, double gradient_scale)
      : scale(gradient_scale),
        beta1(a.beta1),
        rest1(1 - a.beta1),
        beta2(a.beta2),
        rest2(1 - a.beta2),
        rate(learning_rate / unbiased(a.beta1, step)),
        correction(1 / ::sqrt(unbiased(a.beta2, step))),
        epsilon(a.epsilon),
        decay(learning_rate * a.weight_decay),
        decays{learning_rate * a.weight_decay != 0} {}
};

/// Of a step on the host. \param applied  whether there is one
template <class T>
AdamWFactors<accumulator_t<T>> adamw_factors(AdamWArgs<T> const& a, bool& applied) {
  applied = !a.scalars || a.scalars[0].applied;
  return applied && a.scalars ? AdamWFactors<accumulator_t<T>>{a, a.scalars[0]} : AdamWFactors<accumulator_t<T>>{a};
}

struct adamw_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, AdamWArgs<T> const& a) const {
    constexpr char const* op = "adamw";
    auto const shape = a.master.shape();
    check_shape(op, "gradient", a.gradient, shape, "master");
    check_shape(op, "first", a.first, shape, "master");
    check_shape(op, "second", a.second, shape, "master");
    if (a.weights) check_shape(op, "weights", a.weights, shape, "master");
    Index end = 0;
    for (Index s = 0; s < a.segments.extent(0); ++s) {
      auto const& segment = a.segments(s);
      check_value(segment.offset >= end && segment.elements >= 0 && segment.elements <= shape[0] - segment.offset, op, "segment ",
                  s, " is ", segment.elements, " elements from ", segment.offset, "; the one before ends at ", end,
                  ", the array at ", shape[0]);
      end = segment.offset + segment.elements;
    }
    if (a.scalars) check_shape(op, "scalars", a.scalars, Shape<1>{1}, "one step");
    check_value(a.step >= 1, op, "step is ", a.step, ", not at least 1");
    check_value(a.beta1 >= 0 && a.beta1 < 1, op, "beta1 is ", a.beta1, ", not in [0, 1)");
    check_value(a.beta2 >= 0 && a.beta2 < 1, op, "beta2 is ", a.beta2, ", not in [0, 1)");
    // In the accumulator: an epsilon that rounds to zero there would make 0 / 0 of a weight without gradient.
    check_value(accumulator_t<T>(a.epsilon) > accumulator_t<T>(0), op, "epsilon is ", a.epsilon, ", not above 0");
    check_value(a.learning_rate >= 0 && std::isfinite(a.learning_rate), op, "learning_rate is ", a.learning_rate);
    check_value(a.weight_decay >= 0 && std::isfinite(a.weight_decay), op, "weight_decay is ", a.weight_decay);
    ProfileRange const range{op};
    adamw_on(ctx, a);
  }
};

}  // namespace detail

/// Adam with decoupled weight decay, element by element over the segments of a flat array. At step t, with η the learning rate, λ
/// the weight decay (0 in a segment that does not decay) and g = gradient · gradient_scale,
///
///   m ← β₁ m + (1 - β₁) g ;   v ← β₂ v + (1 - β₂) g²
///   w ← w - η (m̂ / (√v̂ + ε) + λ w) ,   m̂ = m / (1 - β₁ᵗ) ,   v̂ = v / (1 - β₂ᵗ)
///
/// Shapes: master, gradient, first, second, weights (n); segments (S). Any stride; fast paths want contiguous arrays. What lies in
/// no segment is neither read nor written. w = `master`, m = `first`, v = `second` and all arithmetic are accumulator_t<T>;
/// `weights`, where given, gets w rounded to `T`, so steps far below half a unit in the last place of a bf16 weight still add up.
/// Without narrow weights the masters are the weights. An element with g = m = v = 0 that does not decay keeps its bits. Same bits
/// on any number of threads. With `scalars` the numbers of the step come from the memory of the context when it is made, and
/// nothing happens where they say so. No aliasing. Does not synchronise. Throws `shape_error` naming the argument that disagrees,
/// `value_error` on a segment outside the array or not in order, and on a number outside its range. Source: Loshchilov & Hutter
/// 2019, arXiv:1711.05101, algorithm 2; λ is scaled by η, as is usual since.
inline constexpr detail::adamw_fn adamw{};

}  // namespace blackmamba

#include <blackmamba/ops/adamw/cpu.hpp>
#include <blackmamba/ops/adamw/reference.hpp>
