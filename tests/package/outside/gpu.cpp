// Calls kernels that blackmamba::precompiled has: a C++ compiler knows nothing but their declarations.

#include <blackmamba/blackmamba.hpp>

using namespace blackmamba;

void normalise(Cuda const& ctx, View<bf16 const, 2> x, View<bf16 const, 1> weight, View<bf16, 2> y) {
  rms_norm(ctx, RmsNormArgs<bf16>{.x = x, .weight = weight, .y = y});
}

void forward(Model<BlackMamba<>, bf16, Cuda>& model, View<Token const, 2> tokens, View<bf16, 3> logits) {
  model.forward(tokens, logits);
}
