// The README's ten lines: define an architecture as a type, give it sizes, run it.

#include <cstdio>

#include <blackmamba/blackmamba.hpp>

using namespace blackmamba;

// [readme]
// A variant nobody published: two Mamba blocks, then a mixture whose tokens go to 2 of 4 SwiGLU experts.
using Block = Residual<RmsNorm, Mamba>;
using Net = Stack<Repeat<Block, Block, Residual<RmsNorm, MoE<TopKSoftmax, SwiGlu>>>>;
constexpr Dims dims{.vocab = 256, .d_model = 64, .d_ffn = 128, .n_experts = 4, .top_k = 2, .depth = 2};
static_assert(count_parameters<Net>(dims).total == 344'584);

int main() {
  Model<Net, float, Cpu> model{dims};
  model.initialise(/*seed=*/1);
  Token const prompt[] = {'H', 'e', 'l', 'l', 'o'};
  for (Token token : generate(model, prompt, {.max_new_tokens = 16, .sample = {.temperature = 0}})) std::printf("%d ", token);
  std::puts("");
}
// [readme]
