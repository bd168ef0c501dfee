#pragma once
/// \file
/// What a router is told beside the sizes of its layer: which one of a list it is, and the numbers that its training knows.

#include <blackmamba/core/error.hpp>
#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// The tokens over which a balancing loss counts.
enum class BalanceScope {
  batch,     ///< those of one forward pass
  sequence,  ///< each sequence apart, averaged
  global,    ///< all that the step has seen so far, over its accumulated passes
};

/// Options of routers. Each router reads those that its page names; the others do not touch it.
struct RouterOptions {
  Index kind = 0;              ///< which router of a `RouterList` this is; routers that are types of their own do not ask
  bool normalise = true;       ///< whether the weights of a token's experts sum to one, where the rule leaves that open
  double capacity_factor = 0;  ///< an expert takes at most ceil(this · tokens · top_k / experts) in training; 0: no limit
  double z_coefficient = 0;    ///< of the router z-loss, mean (log Σ_e e^logit_e)²; for any router
  double balance = 0.01;       ///< coefficient of the balancing loss
  BalanceScope scope = BalanceScope::batch;
  double rate = 0.001;     ///< by how much a bias moves after each step
  double average = 0.99;   ///< what stays at each step of an average that a router carries over steps
  Index groups = 1;        ///< groups of experts, of equal size
  Index groups_kept = 1;   ///< groups that a token may use
  Index iterations = 100;  ///< most iterations of a Sinkhorn plan

  friend constexpr bool operator==(RouterOptions const&, RouterOptions const&) = default;
};

/// Throws `value_error` naming the first option that makes no sense for `n_experts` experts.
constexpr void check_router_options(RouterOptions const& o, Index n_experts) {
  auto const at_least_0 = [](double value, char const* name) {
    if (!(value >= 0)) throw value_error(concat("router: ", name, " is ", value, ", not at least 0"));
  };
  at_least_0(o.capacity_factor, "capacity_factor"), at_least_0(o.z_coefficient, "z_coefficient");
  at_least_0(o.balance, "balance"), at_least_0(o.rate, "rate");
  if (!(o.average >= 0 && o.average < 1)) throw value_error(concat("router: average is ", o.average, ", outside 0 to below 1"));
  if (o.kind < 0) throw value_error(concat("router: kind is ", o.kind, ", not at least 0"));
  if (o.iterations < 1) throw value_error(concat("router: iterations is ", o.iterations, ", not at least 1"));
  if (o.groups < 1 || o.groups_kept < 1 || o.groups_kept > o.groups || (n_experts > 0 && n_experts % o.groups != 0))
    throw value_error(concat("router: ", o.groups_kept, " of ", o.groups, " groups of ", n_experts,
                             " experts; groups must divide the experts, and 1 to all of them be kept"));
}

}  // namespace blackmamba
