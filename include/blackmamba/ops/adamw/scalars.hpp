#pragma once
/// \file
/// The numbers of a step that are not known when it is queued, in the memory of a context: what a step is asked to do, how long its
/// gradient is, whether it happens.

#include <cmath>
#include <limits>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Written by `adamw_request` and `adamw_clip`, read by `adamw`: a CUDA graph of a step can be replayed with other numbers.
struct AdamWScalars {
  double learning_rate = 0;   ///< asked for
  double gradient_scale = 1;  ///< asked for: 1 / (passes that were added up), say
  double gradient_norm = 0;   ///< of the whole gradient, scaled but not clipped
  double clip_factor = 1;     ///< what clipping multiplies the gradient by
  Index steps = 0;            ///< that were applied, this one included
  bool applied = false;       ///< whether this one is
};

/// Arguments of `adamw_request`.
struct AdamWRequestArgs {
  double learning_rate = 0;
  double gradient_scale = 1;
  View<AdamWScalars, 1> scalars{};  ///< (1) in, out
};

/// Arguments of `adamw_clip`. `S` is the scalar of a sum of squares, `sum_squares_t`.
template <Scalar S>
struct AdamWClipArgs {
  View<S const, 1> sum{};                                    ///< (1) of the gradient's squares
  double clip = 0;                                           ///< 0: never
  double longest = std::numeric_limits<double>::infinity();  ///< clipped gradients from this norm on are not applied
  View<AdamWScalars, 1> scalars{};                           ///< (1) in, out
};

namespace detail {

struct adamw_request_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, AdamWRequestArgs const& a) const {
    constexpr char const* op = "adamw_request";
    check_shape(op, "scalars", a.scalars, Shape<1>{1}, "one step");
    check_value(a.gradient_scale > 0, op, "gradient_scale is ", a.gradient_scale, ", not above 0");
    check_value(a.learning_rate >= 0 && std::isfinite(a.learning_rate), op, "learning_rate is ", a.learning_rate);
    ProfileRange const range{op};
    adamw_request_on(ctx, a);
  }
};

struct adamw_clip_fn {
  template <class Ctx, Scalar S>
  void operator()(Ctx const& ctx, AdamWClipArgs<S> const& a) const {
    constexpr char const* op = "adamw_clip";
    check_shape(op, "sum", a.sum, Shape<1>{1}, "one step");
    check_shape(op, "scalars", a.scalars, Shape<1>{1}, "one step");
    ProfileRange const range{op};
    adamw_clip_on(ctx, a);
  }
};

template <class S>
BLACKMAMBA_HOST_DEVICE void clip_step(AdamWClipArgs<S> const& a) {
  constexpr double infinity = HUGE_VAL;
  AdamWScalars& s = a.scalars[0];
  s.gradient_norm = s.gradient_scale * ::sqrt(static_cast<double>(a.sum[0]));
  s.clip_factor = 1;
  s.applied = s.gradient_norm < infinity;
  if (!s.applied) return;
  if (a.clip > 0 && s.gradient_norm > a.clip) s.clip_factor = a.clip / s.gradient_norm;
  s.applied = s.gradient_norm * s.clip_factor < a.longest;
  s.steps += s.applied;
}

}  // namespace detail

/// Says what the next steps are asked to do: scalars.learning_rate, scalars.gradient_scale ← the arguments.
///
/// Does not synchronise. Throws `shape_error` if there is not one place for them, `value_error` on a rate that is negative or not
/// finite or on a scale that is not above 0.
inline constexpr detail::adamw_request_fn adamw_request{};

/// From the sum of a gradient's squares to what a step does with it:
///
///   gradient_norm = gradient_scale · √sum ;   clip_factor = clip / gradient_norm where that is longer than clip > 0, else 1
///   applied = gradient_norm is finite and gradient_norm · clip_factor < longest ;   steps ← steps + applied
///
/// In double on every context. Where the norm is not finite, clip_factor is 1. Does not synchronise. Throws `shape_error` on
/// arguments that are not one element.
inline constexpr detail::adamw_clip_fn adamw_clip{};

template <std::derived_from<Reference> Ctx>
void adamw_request_on(Ctx const&, AdamWRequestArgs const& a) {
  a.scalars[0].learning_rate = a.learning_rate, a.scalars[0].gradient_scale = a.gradient_scale;
}

template <std::derived_from<Reference> Ctx, Scalar S>
void adamw_clip_on(Ctx const&, AdamWClipArgs<S> const& a) {
  detail::clip_step(a);
}

}  // namespace blackmamba
