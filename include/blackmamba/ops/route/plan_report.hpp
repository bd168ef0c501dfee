#pragma once
/// \file
/// What an iteration told of its plan, to where a router tells it.

#include <blackmamba/core/profile.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>

namespace blackmamba {

/// Arguments of `plan_report`.
struct PlanReportArgs {
  View<SinkhornReport const, 1> report{};  ///< (1)
  View<Index, 1> iterations{};             ///< (1) out
  View<double, 1> marginal_error{};        ///< (1) out
};

namespace detail {

struct PlanReportRule {
  PlanReportArgs a;
  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    a.iterations(i) = a.report(i).iterations;
    a.marginal_error(i) = a.report(i).marginal_error;
  }
};

}  // namespace detail

inline void plan_report_on(Reference const&, PlanReportArgs const& a) { detail::PlanReportRule{a}(0); }

namespace detail {

struct plan_report_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, PlanReportArgs const& a) const {
    constexpr char const* op = "plan_report";
    check_shape(op, "report", a.report, Shape<1>{1}, "its one element");
    check_shape(op, "iterations", a.iterations, Shape<1>{1}, "its one element");
    check_shape(op, "marginal_error", a.marginal_error, Shape<1>{1}, "its one element");
    ProfileRange const range{op};
    plan_report_on(ctx, a);
  }
};

}  // namespace detail

/// Copies two numbers of a report that lies in the memory of the context. Does not synchronise. Throws `shape_error` unless every
/// view has one element.
inline constexpr detail::plan_report_fn plan_report{};

}  // namespace blackmamba
