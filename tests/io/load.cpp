#include <unistd.h>

#include <blackmamba/io/load.hpp>
#include <blackmamba/io/presets.hpp>
#include <blackmamba/io/save.hpp>

#include "support/data.hpp"
#include "support/op_test.hpp"

using namespace blackmamba;
namespace fs = std::filesystem;

namespace {

/// A folder that goes away with the test.
struct Folder {
  fs::path path = fs::temp_directory_path() / concat("blackmamba_load_", static_cast<long long>(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

io::ModelConfig every_kind(bool bias, bool gated, Activation activation) {
  io::ModelConfig config;
  config.family = io::ModelConfig::Family::blackmamba;
  config.dims = Dims{.vocab = 23, .d_model = 18, .d_state = 5, .d_conv = 3, .d_inner = 36, .d_ffn = 7};
  config.dims.linear_bias = config.dims.output_bias = bias;
  config.gated = gated;
  config.activation = activation;
  using io::FeedForward;
  config.layers = {{.mamba = true},
                   {.mamba = false, .feed_forward = FeedForward::mixture, .experts = 4},
                   {.mamba = false, .feed_forward = FeedForward::dense},
                   {.mamba = true, .feed_forward = FeedForward::mixture, .experts = 2},
                   {.mamba = true, .feed_forward = FeedForward::dense},
                   {.mamba = false, .feed_forward = FeedForward::mixture, .experts = 1}};
  return config;
}

template <class M>
Tensor<double, 3> logits_of(M const& model) {
  Tensor<Token, 2> tokens{Shape<2>{2, 9}};
  for (Index i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<Token>(Random{1}.below(static_cast<std::uint64_t>(i), model.dims().vocab));
  Tensor<typename M::scalar, 3> logits{Shape<3>{2, 9, model.dims().vocab}};
  model.forward(tokens, logits);
  return converted<double>(logits);
}

/// Message of the file_error that `action` must throw.
template <class Action>
std::string failure(Action&& action) {
  try {
    action();
  } catch (file_error const& e) {
    return e.what();
  }
  FAIL("no file_error");
  return {};
}

}  // namespace

TEST_CASE("load: what is saved loads again, every kind of layer, biases on and off, gated and not") {
  Folder const folder;
  for (bool bias : {false, true})
    for (auto const& unit :
         {std::pair{true, Activation::gelu_erf}, std::pair{true, Activation::silu}, std::pair{false, Activation::gelu_erf}}) {
      bool const gated = unit.first;
      Activation const activation = unit.second;
      INFO("bias ", bias, ", gated ", gated, ", ", to_string(activation));
      auto const config = every_kind(bias, gated, activation);
      Tensor<double, 3> saved;
      io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
        Model<Net, double, Cpu> model{dims};
        model.initialise(4);
        io::save_model(model, config, folder.path);
        saved = logits_of(model);
      });
      CHECK(io::read_config(folder.path).layers == config.layers);
      io::with_model<double>(folder.path, Cpu{}, [&](auto const& model) {
        auto const loaded = logits_of(model);
        REQUIRE(loaded.size() == saved.size());
        for (Index i = 0; i < saved.size(); ++i) CHECK(loaded.data()[i] == saved.data()[i]);
      });
    }
}

TEST_CASE("load: a published checkpoint has the same weights in both containers, in any scalar") {
  for (auto const& source : test::entries(test::data_folder(), "blackmamba-")) {
    if (!fs::exists(source / "model.safetensors") || !fs::exists(source / "pytorch_model.bin")) continue;
    auto const config = io::read_config(source);
    io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
      Model<Net, float, Cpu> a{dims}, b{dims};
      Model<Net, bf16, Cpu> c{dims};
      io::load_weights(a, io::TensorFile::open(source / "model.safetensors"), io::Naming{config.family});
      io::load_weights(b, io::TensorFile::open(source / "pytorch_model.bin"), io::Naming{config.family});
      io::load_weights(c, io::TensorFile::open(source), io::Naming{config.family});
      for (Index i = 0; i < a.flat().size(); ++i) {
        REQUIRE(a.flat()(i) == b.flat()(i));
        REQUIRE(bf16(a.flat()(i)).bits == c.flat()(i).bits);
      }
    });
  }
}

TEST_CASE("load: missing, extra and misshapen tensors are named") {
  Folder const folder;
  auto const config = every_kind(false, true, Activation::gelu_erf);
  auto const load = [&](io::ModelConfig const& as) {
    return failure([&] {
      io::write_config(folder.path / "config.json", as);
      io::with_model<float>(folder.path, Cpu{}, [](auto const&) {});
    });
  };
  io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
    Model<Net, float, Cpu> model{dims};
    io::save_model(model, config, folder.path);
  });

  auto more = config;
  more.layers.push_back({.mamba = true});
  auto message = load(more);
  CHECK(message.find("'decoder.layers.6.norm.weight'") != std::string::npos);
  CHECK(message.find("are missing") != std::string::npos);

  auto fewer = config;
  fewer.layers.pop_back();
  message = load(fewer);
  CHECK(message.find("'decoder.layers.5.") != std::string::npos);
  CHECK(message.find("not part of the network") != std::string::npos);

  auto wider = config;
  wider.dims.d_state = 6;
  message = load(wider);
  CHECK(message.find("(12, 36)") != std::string::npos);
  CHECK(message.find("(14, 36)") != std::string::npos);
  CHECK(message.find("x_proj.weight") != std::string::npos);

  fs::remove(folder.path / "model.safetensors");
  CHECK(load(config).find("pytorch_model.bin") != std::string::npos);
}

TEST_CASE("load: a folder that cannot be made is a sentence") {
  auto const config = io::preset("tiny");
  io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
    Model<Net, float, Cpu> model{dims};
    CHECK(failure([&] { io::save_model(model, config, "/dev/null/model"); }).find("/dev/null/model") != std::string::npos);
  });
}

TEST_CASE("load: an unknown preset lists the ones there are") {
  CHECK_THROWS_WITH_AS(io::preset("huge"),
                       "there is no preset 'huge'; there are: tiny, mamba-130m, blackmamba-340m-1.5b, blackmamba-630m-2.8b",
                       value_error);
}

TEST_CASE("load: a configuration that asks for more than the file holds is refused before there is memory for it") {
  Folder const folder;
  auto const config = every_kind(false, true, Activation::gelu_erf);
  io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
    Model<Net, float, Cpu> model{dims};
    io::save_model(model, config, folder.path);
  });
  auto huge = config;
  huge.dims.d_model = Index{1} << 23;
  huge.dims.d_inner = Index{1} << 24;
  huge.dims.vocab = 1'216'348;
  huge.layers.assign(41'943, {.mamba = true});  // whose parameters, in all, are 2^64 and a few
  CHECK_THROWS_WITH_AS(
      io::with_network(huge,
                       [](auto type, auto const& dims) { return count_parameters<typename decltype(type)::type>(dims).total; }),
      "a network of more than 72057594037927936 parameters", value_error);
  auto const message = failure([&] {
    io::write_config(folder.path / "config.json", huge);
    io::with_model<float>(folder.path, Cpu{}, [](auto const&) {});
  });
  CHECK(message.find("model.safetensors") != std::string::npos);
  CHECK(message.find("(23, 18)") != std::string::npos);
}
