// The GPU from headers alone: no library of kernels, `blackmamba.hpp` in a .cu file and nothing else.

#include <blackmamba/blackmamba.hpp>

#include "gpu.hpp"

using namespace blackmamba;

namespace {

template <class Ctx>
std::vector<float> logits_on(Ctx const& ctx) {
  Model<BlackMamba<>, float, Ctx> model{{.vocab = 50, .d_model = 64, .d_ffn = 96, .n_experts = 4, .depth = 2}, ctx};
  model.initialise(1);
  Tensor<Token, 2> ids{Shape<2>{2, 9}};
  for (Index i = 0; i < ids.size(); ++i) ids.data()[i] = static_cast<Token>(7 * i % 50);
  TensorOn<Ctx, Token, 2> const tokens{ctx, ids.shape()};
  upload(ctx, ids.view(), tokens.view());
  TensorOn<Ctx, float, 3> const logits{ctx, Shape<3>{2, 9, 50}};
  model.forward(tokens, logits);
  auto const out = download(ctx, logits.view());
  return {out.begin(), out.end()};
}

}  // namespace

std::vector<float> logits_on_cpu() { return logits_on(Cpu{}); }
std::vector<float> logits_on_gpu() { return logits_on(Cuda{}); }
bool gpu_there() { return cuda_device_count() > 0; }
