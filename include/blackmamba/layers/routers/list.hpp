#pragma once
/// \file
/// Every router by name. A router is in command lines, tests, benchmarks and comparisons as soon as it stands in `Routers`.

#include <array>
#include <string>
#include <string_view>
#include <type_traits>

#include <blackmamba/layers/routers/expert_choice.hpp>
#include <blackmamba/layers/routers/expert_threshold.hpp>
#include <blackmamba/layers/routers/group_limited.hpp>
#include <blackmamba/layers/routers/hash.hpp>
#include <blackmamba/layers/routers/loss_free_bias.hpp>
#include <blackmamba/layers/routers/quantile.hpp>
#include <blackmamba/layers/routers/random.hpp>
#include <blackmamba/layers/routers/relu.hpp>
#include <blackmamba/layers/routers/sinkhorn.hpp>
#include <blackmamba/layers/routers/sinkhorn_log.hpp>
#include <blackmamba/layers/routers/sinkhorn_megatron.hpp>
#include <blackmamba/layers/routers/soft.hpp>
#include <blackmamba/layers/routers/switch.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/layers/routers/top_k_softmax.hpp>

namespace blackmamba {

/// Routers known at compile time, numbered from 0 in the order in which they stand.
template <Router... R>
struct RouterList {
  static_assert(sizeof...(R) >= 1, "a list of routers has at least one");
  static constexpr Index size = sizeof...(R);

  static constexpr std::array<std::string_view, sizeof...(R)> names() { return {R::name...}; }

  /// A line about each, in the same order; empty where a router has none.
  static constexpr std::array<std::string_view, sizeof...(R)> summaries() { return {summary_of<R>()...}; }

  /// The number of the router with that name. Throws `value_error` that lists the names there are.
  static constexpr Index index(std::string_view name) {
    Index i = 0;
    for (auto const known : names()) {
      if (known == name) return i;
      ++i;
    }
    std::string all;
    for (auto const known : names()) all += concat(all.empty() ? "" : ", ", known);
    throw value_error(concat("router: there is no \"", name, "\"; the routers are ", all));
  }

  /// Calls `f(std::type_identity<R>{})` for the router with that number and returns what it returns, which is of one type for all
  /// of them. Throws `value_error` on a number that no router has.
  template <class F>
  static constexpr decltype(auto) visit(Index kind, F const& f) {
    if (kind < 0 || kind >= size) throw value_error(concat("router: kind is ", kind, ", outside 0 to ", size - 1));
    return at<F, R...>(kind, f);
  }

 private:
  template <class Q>
  static constexpr std::string_view summary_of() {
    if constexpr (requires { std::string_view{Q::summary}; })
      return Q::summary;
    else
      return {};
  }

  template <class F, class First, class... Rest>
  static constexpr decltype(auto) at(Index kind, F const& f) {
    if constexpr (sizeof...(Rest) > 0)
      if (kind > 0) return at<F, Rest...>(kind - 1, f);
    return f(std::type_identity<First>{});
  }

  static constexpr bool distinct() {
    auto const all = names();
    for (std::size_t i = 0; i < all.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (all[i] == all[j]) return false;
    return true;
  }
  static_assert(distinct(), "two routers of a list have the same name");
};

template <class List>
struct OneOf;

/// Whichever router of a list `dims.router.kind` says, at run time: one network type serves them all, so a program that trains or
/// loads any of them compiles each layer once.
template <class... R>
struct OneOf<RouterList<R...>> {
  using List = RouterList<R...>;
  static constexpr char const* name = "configured";

  static constexpr Index slots(Dims const& d) {
    return List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) { return router_slots<Q>(d); });
  }
  static constexpr Index memory(Dims const& d) {
    return List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) { return router_memory<Q>(d); });
  }

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) { Q::route(pass, d, a); });
  }

  /// Throws `value_error` for a router that cannot learn.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a) {
    List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) {
      if constexpr (detail::HasRouterBackward<Q>)
        Q::backward(pass, d, a);
      else
        throw value_error(concat("router: ", Q::name, " has no backward pass and cannot be trained"));
    });
  }

  template <class Ctx, Scalar T>
  static void loss(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a) {
    List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) {
      if constexpr (detail::HasRouterLoss<Q>) Q::loss(pass, d, a);
    });
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    List::visit(d.router.kind, [&]<class Q>(std::type_identity<Q>) {
      if constexpr (detail::HasUpdate<Q>) Q::update(d, u);
    });
  }
};

/// The library's routers. Number 0 is the published model's rule at inference, so that is what a file which names none means.
using Routers = RouterList<Top1Sigmoid,       //
                           TopKSoftmax,       //
                           Switch,            //
                           SinkhornMegatron,  //
                           Sinkhorn,          //
                           SinkhornLog,       //
                           LossFreeBias,      //
                           Quantile,          //
                           GroupLimited,      //
                           ExpertChoice,      //
                           ExpertThreshold,   //
                           ReluRouter,        //
                           HashRouter,        //
                           RandomRouter,      //
                           SoftMixture>;

/// The router that the sizes name.
using ConfiguredRouter = OneOf<Routers>;

}  // namespace blackmamba
