#include <blackmamba/io/config.hpp>

#include "io/files.hpp"

using namespace blackmamba;
using io::FeedForward;
using io::LayerSpec;
using Family = io::ModelConfig::Family;

namespace {

/// A complete BlackMamba configuration, with one key changed, or left out if `value` is empty.
std::string blackmamba_text(std::string const& key = "", std::string const& value = "") {
  std::map<std::string, std::string> keys{{"num_layers", "2"},
                                          {"hidden_size", "64"},
                                          {"state_size", "16"},
                                          {"conv_dimension", "4"},
                                          {"vocab_size", "256"},
                                          {"expansion_factor", "2"},
                                          {"mamba_moe_layers", "[\"r\",\"8\"]"},
                                          {"ffn_hidden_size", "96"},
                                          {"add_bias_linear", "false"},
                                          {"swiglu", "true"},
                                          {"max_sequence_length", "2048"}};
  if (!key.empty()) keys[key] = value;
  std::string out = "{";
  for (auto const& [name, text] : keys)
    if (!text.empty()) out += concat(out.size() > 1 ? "," : "", "\"", name, "\":", text);
  return out + "}";
}
io::ModelConfig parse(std::string const& text) { return io::parse_config(text, "config.json"); }
std::string refused(std::string const& text) {
  try {
    parse(text);
  } catch (file_error const& e) {
    return e.what();
  }
  return "accepted";
}
std::vector<LayerSpec> layers(std::string const& value) { return parse(blackmamba_text("mamba_moe_layers", value)).layers; }

LayerSpec const mamba{.mamba = true};
LayerSpec feed_forward(bool with_mamba, FeedForward kind, Index experts = 0) { return {with_mamba, kind, experts}; }

std::string const transformers = "\"hidden_size\":64,\"num_hidden_layers\":3,\"vocab_size\":256";

}  // namespace

TEST_CASE("config: the published form gives sizes, layers and options") {
  auto const config = parse(blackmamba_text());
  CHECK(config.family == Family::blackmamba);
  CHECK(config.dims == Dims{.vocab = 256,
                            .d_model = 64,
                            .d_state = 16,
                            .d_conv = 4,
                            .d_inner = 128,
                            .dt_rank = 4,
                            .d_ffn = 96,
                            .n_experts = 8,
                            .depth = 2});
  CHECK(config.layers == std::vector{mamba, feed_forward(false, FeedForward::mixture, 8)});
  CHECK(config.gated);
  CHECK(config.activation == Activation::gelu_erf);
  CHECK(config.max_sequence_length == 2048);
  auto const biased = parse(blackmamba_text("add_bias_linear", "true")).dims;
  CHECK(biased.linear_bias);
  CHECK(biased.output_bias);
  CHECK(parse(blackmamba_text("activation", "\"silu\"")).activation == Activation::silu);
  CHECK(parse(blackmamba_text("ffn_hidden_size", "null")).dims.d_ffn == 256);
  CHECK(parse(blackmamba_text("ffn_hidden_size")).dims.d_ffn == 256);
  CHECK(parse(blackmamba_text("max_sequence_length")).max_sequence_length == 0);
  CHECK(parse(blackmamba_text("expansion_factor", "1.99")).dims.d_inner == 127);
}

TEST_CASE("config: every pattern of layers means what the published code makes of it") {
  CHECK(layers("[\"1\",\"r1\"]") == std::vector{feed_forward(false, FeedForward::dense), feed_forward(true, FeedForward::dense)});
  CHECK(layers("[\"r4\",\"4\"]") ==
        std::vector{feed_forward(true, FeedForward::mixture, 4), feed_forward(false, FeedForward::mixture, 4)});
  CHECK(layers("[\"21\",\"r21\"]") ==
        std::vector{feed_forward(false, FeedForward::mixture, 1), feed_forward(true, FeedForward::mixture, 1)});
  CHECK(layers("[\"12\",\"r12\"]") == std::vector{feed_forward(false, FeedForward::dense), feed_forward(true, FeedForward::dense)});
  CHECK(layers("[\"16\",\"64\"]") ==
        std::vector{feed_forward(false, FeedForward::dense), feed_forward(false, FeedForward::mixture, 4)});
  CHECK(layers("\"r8\"") == std::vector{mamba, feed_forward(false, FeedForward::mixture, 8)});
  CHECK(layers("[\"r\",\"r\",\"what comes after the last layer is not looked at\"]") == std::vector{mamba, mamba});
  for (char const* none : {"[]", "\"\"", "null", ""}) CHECK(layers(none) == std::vector{mamba, mamba});
  CHECK(parse(blackmamba_text("mamba_moe_layers", "[\"4\",\"8\"]")).dims.n_experts == 8);
}

TEST_CASE("config: layers without meaning are refused with their number and text") {
  auto const says = [](std::string const& value, char const* message) {
    CHECK_SAYS(refused(blackmamba_text("mamba_moe_layers", value)), message);
  };
  says("[\"r\",\"0\"]", "config.json: mamba_moe_layers gives layer 1 as '0', a mixture of 0 experts");
  says("[\"r\",\"r0\"]", "gives layer 1 as 'r0', a mixture of 0 experts");
  says("[\"rx\",\"r\"]", "gives layer 0 as 'rx', whose last character is not a number of experts");
  says("[\"\",\"r\"]", "gives layer 0 as '', which names no block");
  says("[\"r\"]", "has 1 entries for 2 layers");
  says("[\"r\",8]", "mamba_moe_layers[1] is 8, not text");
  says("{}", "mamba_moe_layers, an object, is neither a list nor text");
}

TEST_CASE("config: sizes that no network can have are refused with key and value") {
  for (char const* key :
       {"num_layers", "hidden_size", "state_size", "conv_dimension", "vocab_size", "ffn_hidden_size", "max_sequence_length"})
    for (char const* value : {"0", "-1", "1.5", "4294967296", "18446744073709551616", "\"64\"", "[]", "true", "NaN", "Infinity"}) {
      INFO(value);
      CHECK_SAYS(refused(blackmamba_text(key, value)), concat("config.json: ", key, ", "));
    }
  for (char const* key :
       {"num_layers", "hidden_size", "state_size", "conv_dimension", "vocab_size", "expansion_factor", "add_bias_linear", "swiglu"})
    CHECK_SAYS(refused(blackmamba_text(key)), concat(key == std::string{"num_layers"} ? "nor " : "has no ", key));
  CHECK_SAYS(refused(blackmamba_text("num_layers", "65537")), "is not a whole number between 1 and 65536");
  for (char const* value : {"0", "-2", "Infinity", "NaN", "null", "\"2\"", "1e-9", "1e300"})
    CHECK_SAYS(refused(blackmamba_text("expansion_factor", value)), "expansion_factor, ");
  CHECK_SAYS(refused(blackmamba_text("swiglu", "1")), "swiglu, 1, is neither true nor false");
  CHECK_SAYS(refused(blackmamba_text("activation", "\"tanh\"")), "activation, 'tanh', is no activation that is known here");
}

TEST_CASE("config: what is no configuration is refused") {
  CHECK_SAYS(refused(""), "the configuration is not JSON");
  CHECK_SAYS(refused("[]"), "holds a list, not an object");
  CHECK_SAYS(refused("{}"), "has neither model_type, as transformers writes, nor num_layers, as BlackMamba does");
  CHECK_SAYS(refused("{\"model_type\":\"llama\"}"), "model_type, 'llama', is not one that can be read");
  CHECK_SAYS(refused("{\"model_type\":7}"), "model_type, 7, is not text");
  CHECK_SAYS(refused("{\"num_layers\":1,\"num_layers\":2}"), "names 'num_layers' twice");
  CHECK_SAYS(refused(std::string(1000, '[')), "nests deeper than 32 levels");
  CHECK_SAYS(refused(std::string((1 << 24) + 1, ' ')), "more than the 16777216 of any configuration");
  std::string const good = blackmamba_text();
  for (std::size_t length = 0; length < good.size(); ++length) CHECK_SAYS(refused(good.substr(0, length)), "is not JSON");
}

TEST_CASE("config: Mamba as transformers writes it") {
  auto const plain = parse("{\"model_type\":\"mamba\"," + transformers + "}");
  CHECK(plain.family == Family::mamba);
  CHECK(plain.dims == Dims{.vocab = 256, .d_model = 64, .d_state = 16, .d_conv = 4, .d_inner = 128, .dt_rank = 4, .depth = 3});
  CHECK(plain.layers == std::vector{mamba, mamba, mamba});
  auto const full = parse("{\"model_type\":\"mamba\"," + transformers +
                          ",\"intermediate_size\":192,\"expand\":2,\"time_step_rank\":7,\"use_bias\":true,\"use_conv_bias\":false,"
                          "\"layer_norm_epsilon\":1e-6,\"tie_word_embeddings\":false,\"state_size\":8,\"conv_kernel\":3}");
  CHECK(full.dims == Dims{.vocab = 256,
                          .d_model = 64,
                          .d_state = 8,
                          .d_conv = 3,
                          .d_inner = 192,
                          .dt_rank = 7,
                          .depth = 3,
                          .norm_epsilon = 1e-6,
                          .linear_bias = true,
                          .conv_bias = false,
                          .tied = false});
  CHECK(parse("{\"model_type\":\"mamba\",\"time_step_rank\":\"auto\"," + transformers + "}").dims.dt_rank == 4);
  CHECK_SAYS(refused("{\"model_type\":\"mamba\",\"time_step_rank\":\"max\"," + transformers + "}"),
             "time_step_rank, 'max', is not a whole number");
  CHECK_SAYS(refused("{\"model_type\":\"mamba\",\"hidden_act\":\"relu\"," + transformers + "}"), "hidden_act, 'relu', is not silu");
  CHECK_SAYS(refused("{\"model_type\":\"mamba\",\"layer_norm_epsilon\":-1," + transformers + "}"),
             "layer_norm_epsilon, -1, is not a finite number above 0");
}

TEST_CASE("config: Mamba-2 as transformers writes it, infinities in either spelling") {
  auto const text = [](std::string const& more) {
    return "{\"model_type\":\"mamba2\",\"num_heads\":8,\"head_dim\":16,\"n_groups\":2," + transformers + more + "}";
  };
  auto const config = parse(text(""));
  CHECK(config.family == Family::mamba2);
  CHECK(config.dims.n_groups == 2);
  CHECK(config.dims.head_dim == 16);
  CHECK(config.dims.d_inner == 128);
  CHECK(!config.dims.tied);
  CHECK(config.dims.dt_low == 0);
  CHECK(std::isinf(config.dims.dt_high));
  for (char const* infinite : {"Infinity", "{\"__float__\":\"Infinity\"}"}) {
    auto const limited = parse(text(concat(",\"time_step_limit\":[0.001,", infinite, "]"))).dims;
    CHECK(limited.dt_low == 0.001);
    CHECK(std::isinf(limited.dt_high));
  }
  CHECK(parse(text(",\"time_step_limit\":[0.001,0.1]")).dims.dt_high == 0.1);
  CHECK(parse(text(",\"note\":\"Infinity is \\\"NaN\\\" here\"")) == config);
  for (char const* limit : {"[0.1,0.001]", "[0]", "[0,NaN]", "[-1,1]", "[0,-Infinity]", "[0,{\"__float__\":\"x\"}]", "\"auto\""})
    CHECK_SAYS(refused(text(concat(",\"time_step_limit\":", limit))), "time_step_limit, ");
  CHECK_SAYS(refused(text(",\"expand\":4")), "num_heads, 8, times head_dim 16 is 128, not expand times hidden_size, 256");
  CHECK_SAYS(refused("{\"model_type\":\"mamba2\",\"head_dim\":16," + transformers + "}"),
             "num_heads, not given, times head_dim 16 is 2048, not expand times hidden_size, 128");
  CHECK_SAYS(refused(text(",\"rms_norm\":false")), "rms_norm, false, is not true");
  CHECK_SAYS(refused("{\"model_type\":\"mamba2\",\"num_heads\":8,\"head_dim\":16,\"n_groups\":3," + transformers + "}"),
             "num_heads, 8, is not a multiple of n_groups 3");
}

TEST_CASE("config: what is written reads back as the same, in every family") {
  std::vector<io::ModelConfig> configs{
      parse(blackmamba_text("mamba_moe_layers", "[\"r21\",\"1\"]")),
      parse(blackmamba_text("expansion_factor", "1.99")),
      parse(blackmamba_text("activation", "\"silu\"")),
      parse(blackmamba_text("add_bias_linear", "true")),
      parse(blackmamba_text("max_sequence_length")),
      parse("{\"model_type\":\"mamba\",\"time_step_rank\":7,\"intermediate_size\":100," + transformers + "}"),
      parse("{\"model_type\":\"mamba2\",\"num_heads\":8,\"head_dim\":16,\"n_groups\":2," + transformers + "}")};
  for (Index d_inner = 1; d_inner < 200; ++d_inner) {
    configs.push_back(configs[0]);
    configs.back().dims.d_model = 67;
    configs.back().dims.dt_rank = 5;
    configs.back().dims.d_inner = d_inner;
  }
  for (auto const& config : configs) {
    INFO(io::to_json(config));
    CHECK(parse(io::to_json(config)) == config);
  }
  test::Folder const folder;
  io::write_config(folder / "config.json", configs[0]);
  CHECK(io::read_config(folder.path()) == configs[0]);
  CHECK(folder.names() == std::vector<std::string>{"config.json"});
}

TEST_CASE("config: a router by name with its options, many experts and shared ones come back") {
  auto config = parse(blackmamba_text());
  CHECK(config.dims.router == RouterOptions{});
  CHECK(io::to_json(config).find("router") == std::string::npos);
  for (auto& layer : config.layers)
    if (layer.feed_forward == io::FeedForward::mixture) layer.experts = 16;
  config.dims.n_experts = 16, config.dims.top_k = 4, config.dims.shared = 2;
  config.dims.router = {.kind = Routers::index("topk"),
                        .normalise = false,
                        .capacity_factor = 1.25,
                        .z_coefficient = 0.1,
                        .balance = 0.3,
                        .scope = BalanceScope::global,
                        .rate = 0.7,
                        .average = 0.5,
                        .groups = 4,
                        .groups_kept = 2,
                        .iterations = 9};
  CHECK(parse(io::to_json(config)) == config);
}

TEST_CASE("config: a router that there is not, and options that it cannot have, are refused with their values") {
  auto const with = [](char const* more) { return blackmamba_text().insert(1, more); };
  auto const refused = [&](char const* more, char const* why) {
    INFO(more);
    CHECK_THROWS_WITH_AS(parse(with(more)), doctest::Contains(why), file_error);
  };
  refused("\"router\": \"none\",", "there is no \"none\"; the routers are top1, topk");
  refused("\"router_options\": 3,", "is not an object");
  refused("\"router_options\": {\"speed\": 1},", "has 'speed', which is no option");
  refused("\"router_options\": {\"rate\": \"x\"},", "is not a number");
  refused("\"router_options\": {\"rate\": -1},", "rate is -1, not at least 0");
  refused("\"router_options\": {\"groups\": 3},", "groups must divide the experts");
  refused("\"router_options\": {\"scope\": \"town\"},", "is not batch, sequence or global");
  refused("\"num_experts\": 0,", "num_experts");
  refused("\"top_k\": 99,", "top_k is 99, more than the 8 experts of a layer");
}

TEST_CASE("config: what the published form has no place for is refused, not lost") {
  auto config = parse(blackmamba_text());
  config.dims.norm_epsilon = 1e-6;
  CHECK_THROWS_WITH_AS(io::to_json(config),
                       "write_config: norm_epsilon is 1e-06, which config.json has no place for: it would be read as 1e-05",
                       value_error);
  config = parse(blackmamba_text());
  config.layers[0].mamba = false;
  CHECK_THROWS_WITH_AS(io::to_json(config), "write_config: layer 0 is empty", value_error);
}
