// A mixture says in one sentence what its router or its expert has not, and an MLP what its expert has not.

#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/moe.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>

using namespace blackmamba;

struct First {
#if MISTAKE == 7  // refused: this router has no static constexpr char const* name
#else
  static constexpr char const* name = "first";
#endif
#if MISTAKE == 1  // refused: this router has no static route(pass, dims, args) for RouterArgs<T>
#else
  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const&, Dims const&, RouterArgs<T> const&);
#endif
};

struct Unit {
#if MISTAKE == 2    // refused: this expert has no static gated(dims) that answers bool
#elif MISTAKE == 3  // refused: this expert has no static gated(dims) that answers bool
  static constexpr void gated(Dims const&) {}
#else
  static constexpr bool gated(Dims const&) { return true; }
#endif

#if MISTAKE == 4  // refused: this expert has no static activation(dims) that answers an Activation
#else
  static constexpr Activation activation(Dims const&) { return Activation::relu; }
#endif
};

inline constexpr MoE<First, Unit> mixture{};

#if MISTAKE == 5  // refused: this router has no static route(pass, dims, args) for RouterArgs<T>
inline constexpr MoE<GeGlu, Top1Sigmoid> the_wrong_way_round{};
#elif MISTAKE == 6  // refused: this expert has no static gated(dims) that answers bool
inline constexpr Mlp<Top1Sigmoid> mlp{};
#else
inline constexpr Mlp<Unit> mlp{};
#endif
