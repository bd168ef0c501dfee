// What a model is made of, without loading its weights: layers, parameters, operations, bytes, state.

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include <blackmamba/io/load.hpp>
#include <blackmamba/io/presets.hpp>

#include "support/program.hpp"

namespace {

using namespace blackmamba;

/// One line of the table.
struct Row {
  std::string layer, what;
  ParameterCount parameters;
  Index flops = 0, state_bytes = 0;
};

struct Table {
  std::vector<Row> layers;
  Row total;
};

template <class Net>
Table table(typename Net::Dims const& dims) {
  Table out;
  ParameterCount in_layers;
  Index layer_flops = 0;
  Net::body::describe(dims, [&](Index layer, auto type, Dims const& d) {
    using Block = typename decltype(type)::type;
    std::string what = Block::name();
    if (d.n_experts > 0 && what.find("MoE") != std::string::npos) what += fmt::format(", {} of {}", d.top_k, d.n_experts);
    out.layers.push_back(
        {fmt::format("{}", layer), what, count_parameters<Block>(d), Block::flops_per_token(d), state_bytes<Block, float>(d)});
    in_layers.total += out.layers.back().parameters.total;
    in_layers.active += out.layers.back().parameters.active;
    layer_flops += out.layers.back().flops;
  });
  out.total = {"", "all", count_parameters<Net>(dims), flops_per_token<Net>(dims), state_bytes<Net, float>(dims)};
  ParameterCount const rest{out.total.parameters.total - in_layers.total, out.total.parameters.active - in_layers.active};
  out.layers.push_back(
      {"", dims.tied ? "embedding (also output), norm" : "embedding, norm, output", rest, out.total.flops - layer_flops, 0});
  return out;
}

/// 1458462072 → "1,458,462,072"
std::string grouped(Index n) {
  std::string const digits = fmt::format("{}", n);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

void print(Table const& t) {
  auto const line = [](Row const& r) {
    fmt::print("{:>5}  {:<30} {:>15} {:>15} {:>15} {:>12}\n", r.layer, r.what, grouped(r.parameters.total),
               grouped(r.parameters.active), grouped(r.flops), grouped(r.state_bytes));
  };
  fmt::print("{:>5}  {:<30} {:>15} {:>15} {:>15} {:>12}\n", "layer", "", "parameters", "active", "FLOPs/token", "state bytes");
  for (auto const& row : t.layers) line(row);
  line(t.total);
  fmt::print("\nbytes of the weights: f64 {}, f32 {}, bf16 and f16 {}; a token reads the active {} in bf16\n",
             grouped(8 * t.total.parameters.total), grouped(4 * t.total.parameters.total), grouped(2 * t.total.parameters.total),
             grouped(2 * t.total.parameters.active));
  fmt::print("state bytes are those of one sequence in f32\n");
}

nlohmann::json to_json(Row const& r) {
  return {{"what", r.what},
          {"parameters", r.parameters.total},
          {"active_parameters", r.parameters.active},
          {"flops_per_token", r.flops},
          {"state_bytes_f32", r.state_bytes}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Shows what a model is made of: layers, parameters, FLOPs a token, bytes by scalar, size of the state.", "inspect"};
  std::string folder, name;
  bool as_json = false;
  auto* const model = app.add_option("--model", folder, "Folder of a checkpoint, or its config.json");
  app.add_option("--preset", name, "tiny, mamba-130m, blackmamba-340m-1.5b, blackmamba-630m-2.8b")->excludes(model);
  app.add_flag("--json", as_json, "Print one JSON object");

  return program::run(app, argc, argv, [&] {
    check_value(!folder.empty() || !name.empty(), "inspect", "there is nothing to inspect: give --model or --preset");
    auto const config = folder.empty() ? io::preset(name) : io::read_config(folder);
    Table const t = io::with_network(config, []<class Net>(Type<Net>, auto const& dims) { return table<Net>(dims); });
    if (!as_json) return print(t);
    nlohmann::json out = to_json(t.total);
    out["bytes"] = {{"f64", 8 * t.total.parameters.total},
                    {"f32", 4 * t.total.parameters.total},
                    {"bf16", 2 * t.total.parameters.total},
                    {"f16", 2 * t.total.parameters.total}};
    for (auto const& row : t.layers) out["layers"].push_back(to_json(row));
    fmt::print("{}\n", out.dump(2));
  });
}
