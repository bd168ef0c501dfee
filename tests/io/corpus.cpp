#include <blackmamba/io/corpus.hpp>

#include <cmath>
#include <numeric>

#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/train/source.hpp>

#include "io/files.hpp"
#include "io/unprivileged.hpp"

using namespace blackmamba;

static_assert(TokenSource<io::Corpus>);

namespace {

std::vector<Token> document(io::Corpus const& corpus, Index i) {
  std::vector<Token> out(static_cast<std::size_t>(corpus.length(i)));
  corpus.read(i, 0, out);
  return out;
}
std::string text(io::Corpus const& corpus, Index i) {
  std::string out;
  for (Token const token : document(corpus, i)) out += static_cast<char>(token);
  return out;
}
std::vector<std::string> texts(io::Corpus const& corpus) {
  std::vector<std::string> out;
  for (Index i = 0; i < corpus.documents(); ++i) out.push_back(text(corpus, i));
  return out;
}

std::string tokens16(std::vector<int> const& values) {
  std::string out;
  for (int const value : values) out += test::le(static_cast<std::uint16_t>(value));
  return out;
}

/// The message with which a corpus is refused; "opened" if it is not.
std::string refusal(std::vector<std::filesystem::path> const& paths, io::CorpusOptions const& options = {}) {
  try {
    io::Corpus::open(paths, options);
  } catch (error const& e) {
    return e.what();
  }
  return "opened";
}

std::uint64_t fingerprint(std::vector<std::filesystem::path> const& paths, io::CorpusOptions const& options = {}) {
  return io::Corpus::open(paths, options).fingerprint();
}

template <class T>
std::filesystem::path write_tokens(std::filesystem::path const& path, std::vector<T> values, std::vector<Index> shape) {
  io::TensorToWrite const tensors[]{{"tokens", io::dtype_of<T>(), std::move(shape), std::as_bytes(std::span{values})}};
  io::write_safetensors(path, tensors);
  return path;
}

}  // namespace

TEST_CASE("corpus: a folder is its files in the order of their paths, a file a document of bytes") {
  test::Folder const folder;
  std::filesystem::create_directories(folder / "b/deep");
  folder.write("b/deep/x.txt", "deep");
  folder.write("b/a.hpp", "header\n");
  folder.write("b-", "dash");
  folder.write("z", "\xff\xfe end");
  folder.write("a", "first");
  auto const corpus = io::Corpus::open(folder.path());
  CHECK(texts(corpus) == std::vector<std::string>{"first", "dash", "header\n", "deep", "\xff\xfe end"});
  CHECK(corpus.path(3) == (folder / "b/deep/x.txt").string());
  CHECK(corpus.tokens() == 26);
  CHECK(corpus.files() == 5);
  CHECK(corpus.is_bytes());
  CHECK(corpus.largest_token() == 255);
  CHECK(document(corpus, 4)[0] == 255);
  Token middle[3];
  corpus.read(2, 2, middle);
  CHECK(std::vector<Token>(middle, middle + 3) == std::vector<Token>{'a', 'd', 'e'});

  // Paths keep the order in which they are given.
  CHECK(texts(io::Corpus::open(std::vector{folder / "z", folder / "b", folder / "a"})) ==
        std::vector<std::string>{"\xff\xfe end", "header\n", "deep", "first"});
}

TEST_CASE("corpus: what a folder holds beside text is passed over with a reason") {
  test::Folder const folder;
  folder.write("text", "some text");
  folder.write(".hidden", "x");
  std::filesystem::create_directory(folder / ".git");
  folder.write(".git/config", "x");
  folder.write("empty", "");
  folder.write("program", std::string("\x7f"
                                      "ELF\0\0",
                                      6));
  std::filesystem::create_directory(folder / "sub");
  std::filesystem::create_directory_symlink("..", folder / "sub/circle");
  std::filesystem::create_symlink("nowhere", folder / "sub/broken");
  std::filesystem::create_symlink("text", folder / "u-link");
  std::filesystem::create_hard_link(folder / "text", folder / "v-hard");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  auto const corpus = io::Corpus::open(folder.path());
  CHECK(texts(corpus) == std::vector<std::string>{"some text"});
  std::map<std::string, std::string> reasons;
  for (auto const& [path, reason] : corpus.skipped())
    reasons[std::filesystem::path{path}.lexically_relative(folder.path()).string()] = reason;
  std::string const same = concat("the same file as ", (folder / "text").string());
  CHECK(reasons == std::map<std::string, std::string>{{".git", "hidden"},
                                                      {".hidden", "hidden"},
                                                      {"empty", "empty"},
                                                      {"pipe", "not a regular file"},
                                                      {"program", "not text: it has zero bytes"},
                                                      {"sub/broken", "a link to no file"},
                                                      {"sub/circle", "a link to a folder"},
                                                      {"u-link", same},
                                                      {"v-hard", same}});
}

TEST_CASE("corpus: a file that is reached twice counts once, one that is named is read whatever it holds") {
  test::Folder const folder;
  folder.write("a", "one");
  auto const zeros = folder.write(".zeros", std::string("\0\1\0", 3));
  auto const corpus = io::Corpus::open(std::vector{folder / "a", folder.path(), zeros, folder / "a"});
  CHECK(texts(corpus) == std::vector<std::string>{"one", std::string("\0\1\0", 3)});
  // The folder of the file, and a link to it, are the same text.
  std::filesystem::create_directory_symlink(folder.path(), folder / "self");
  CHECK(texts(io::Corpus::open(folder / "self")) == std::vector<std::string>{"one"});
}

TEST_CASE("corpus: files around the size from which they are mapped are read in full") {
  test::Folder const folder;
  std::vector<std::string> expected;
  for (std::size_t const size : {1, 65535, 65536, 65537, 300000}) {
    std::string content(size, 'a');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>('a' + (i * i + size) % 23);
    folder.write(concat("f", static_cast<Index>(1000000 + size)), content);
    expected.push_back(content);
  }
  CHECK(texts(io::Corpus::open(folder.path())) == expected);
}

TEST_CASE("corpus: .bin files hold tokens of 16 bits, cut after the token that ends a document") {
  test::Folder const folder;
  auto const path = folder.write("a.bin", tokens16({7, 65535, 0, 0, 3, 50000, 0, 9}));
  auto const whole = io::Corpus::open(path);
  CHECK(whole.documents() == 1);
  CHECK_FALSE(whole.is_bytes());
  CHECK(whole.largest_token() == 65535);
  CHECK(document(whole, 0) == std::vector<Token>{7, 65535, 0, 0, 3, 50000, 0, 9});
  auto const cut = io::Corpus::open(path, {.end_of_document = 0});
  REQUIRE(cut.documents() == 4);
  CHECK(document(cut, 0) == std::vector<Token>{7, 65535, 0});
  CHECK(document(cut, 1) == std::vector<Token>{0});
  CHECK(document(cut, 2) == std::vector<Token>{3, 50000, 0});
  CHECK(document(cut, 3) == std::vector<Token>{9});
  CHECK(cut.tokens() == 8);
  // A last token that ends a document leaves no empty one.
  CHECK(io::Corpus::open(path, {.end_of_document = 9}).documents() == 1);
  // Text can be cut too.
  CHECK(texts(io::Corpus::open(folder.write("t.txt", "a\nbc\n"), {.end_of_document = '\n'})) ==
        std::vector<std::string>{"a\n", "bc\n"});
}

TEST_CASE("corpus: a long .bin file is cut at every end, wherever blocks of reading end") {
  test::Folder const folder;
  std::vector<int> values(20000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 4096 == 4095 || i % 4096 == 0 ? 1 : 2;
  auto const corpus = io::Corpus::open(folder.write("a.bin", tokens16(values)), {.end_of_document = 1});
  std::vector<Token> joined;
  for (Index i = 0; i < corpus.documents(); ++i) {
    auto const tokens = document(corpus, i);
    CHECK(std::count(tokens.begin(), tokens.end() - 1, 1) == 0);
    joined.insert(joined.end(), tokens.begin(), tokens.end());
  }
  CHECK(joined == std::vector<Token>(values.begin(), values.end()));
  CHECK(corpus.documents() == std::count(values.begin(), values.end(), 1) + 1);
}

TEST_CASE_TEMPLATE("corpus: the tensor `tokens` of any integer type is one document, or one a row", T, std::uint8_t, std::int16_t,
                   std::uint16_t, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t) {
  test::Folder const folder;
  std::vector<T> const values{5, 4, 3, 2, 1, 100};
  auto const flat = io::Corpus::open(write_tokens<T>(folder / "flat.safetensors", values, {6}));
  CHECK(flat.documents() == 1);
  CHECK(document(flat, 0) == std::vector<Token>{5, 4, 3, 2, 1, 100});
  CHECK_FALSE(flat.is_bytes());
  auto const rows = io::Corpus::open(write_tokens<T>(folder / "rows.safetensors", values, {2, 3}), {.end_of_document = 4});
  REQUIRE(rows.documents() == 2);
  CHECK(document(rows, 0) == std::vector<Token>{5, 4, 3});
  CHECK(document(rows, 1) == std::vector<Token>{2, 1, 100});
  Token last;
  rows.read(1, 2, {&last, 1});
  CHECK(last == 100);
}

TEST_CASE("corpus: the entropy is that of the tokens' frequencies") {
  test::Folder const folder;
  CHECK(io::Corpus::open(folder.write("one", "aaaa")).unigram_entropy() == 0);
  CHECK(io::Corpus::open(folder.write("four", "abcdabcd")).unigram_entropy() == 2);
  auto const corpus = io::Corpus::open(folder.write("skew", "aab"));
  CHECK(corpus.unigram_entropy() == doctest::Approx(std::log2(3.0) - 2.0 / 3).epsilon(1e-15));
  CHECK(corpus.counts().size() == 'b' + 1);
  CHECK(corpus.counts()['a'] == 2);
  CHECK(std::accumulate(corpus.counts().begin(), corpus.counts().end(), Index{0}) == 3);
}

TEST_CASE("corpus: the fingerprint tells contents, order and cuts apart, and does not know where the files lie") {
  test::Folder const folder;
  for (char const* name : {"1", "2", "3"}) std::filesystem::create_directory(folder / name);
  std::string content(1000, 'x');
  auto const a = folder.write("1/a", content), b = folder.write("1/b", "text");
  auto const original = fingerprint({folder / "1"});
  std::filesystem::copy(folder / "1", folder / "2");
  CHECK(fingerprint({folder / "2"}) == original);
  CHECK(fingerprint({a, b}) == original);
  std::set<std::uint64_t> others{original};
  auto const differs = [&](std::uint64_t hash) { CHECK(others.insert(hash).second); };
  differs(fingerprint({b, a}));
  differs(fingerprint({a}));
  differs(fingerprint({folder / "1"}, {.end_of_document = 'e'}));
  for (std::size_t const place : {0, 1, 8, 31, 32, 500, 991, 992, 999}) {
    std::string other = content;
    other[place] = 'y';
    differs(fingerprint({folder.write("3/a", other), b}));
  }
  differs(fingerprint({folder.write("3/a", content + '\0'), b}));
  differs(fingerprint({folder.write("3/a", content + "t"), folder.write("3/b", "ext")}));
  differs(fingerprint({folder.write("3/c.bin", content), folder.write("3/d.bin", "text")}));
}

TEST_CASE("corpus: a token that the vocabulary lacks is named with its place") {
  test::Folder const folder;
  auto const path = folder.write("a.bin", tokens16({1, 2, 0, 300, 299, 400}));
  auto const corpus = io::Corpus::open(path, {.end_of_document = 0});
  CHECK_NOTHROW(corpus.check_vocabulary(401));
  CHECK_THROWS_WITH_AS(corpus.check_vocabulary(400),
                       concat("corpus: ", path.string(), ": token 5 is 400, outside the vocabulary of 400").c_str(), value_error);
  CHECK_THROWS_WITH_AS(corpus.check_vocabulary(256),
                       concat("corpus: ", path.string(), ": token 3 is 300, outside the vocabulary of 256").c_str(), value_error);
}

TEST_CASE("corpus: what cannot be learnt from is refused with path and reason") {
  test::Folder const folder;
  auto const in = [&](std::string const& name) { return (folder / name).string(); };
  CHECK(refusal({}) == "corpus: no path to any text is given");
  CHECK(refusal({folder / "no"}) == concat(in("no"), ": cannot be opened: No such file or directory"));
  CHECK(refusal({folder.path()}) == concat(folder.path().string(), ": there is no text; 0 files were passed over"));
  folder.write(".x", "hidden");
  CHECK(refusal({folder.path()}) ==
        concat(folder.path().string(), ": there is no text; 1 files were passed over, such as ", in(".x"), " (hidden)"));
  CHECK(refusal({folder.write("empty", "")}) == concat(in("empty"), ": is empty"));
  CHECK(refusal({folder.write("empty.bin", "")}) == concat(in("empty.bin"), ": is empty"));
  CHECK(refusal({folder.write("odd.bin", "abc")}) == concat(in("odd.bin"), ": has 3 bytes, which are not whole tokens of 2 bytes"));
  CHECK(refusal({"/dev/null"}) == "/dev/null: is not a regular file");
  CHECK(refusal({folder / "empty"}, {.end_of_document = -1}) == "corpus: the token that ends documents is -1, not at least 0");

  auto const text = folder.write("text", "text"), bin = folder.write("a.bin", "text");
  CHECK(refusal({text, bin}) ==
        concat(in("a.bin"), ": holds tokens, but ", in("text"), " holds bytes; learn from one or the other"));
  CHECK(refusal({bin, text}) ==
        concat(in("text"), ": holds bytes, but ", in("a.bin"), " holds tokens; learn from one or the other"));

  auto const tensor = folder / "t.safetensors";
  CHECK(refusal({write_tokens<float>(tensor, {1, 2}, {2})}) ==
        concat(tensor.string(), ": tensor 'tokens' of shape (2,) has elements of F32, not integers"));
  CHECK(refusal({write_tokens<int>(tensor, {1, 2}, {1, 1, 2})}) ==
        concat(tensor.string(), ": tensor 'tokens' of shape (1, 1, 2) is neither (n), one document, nor (D, n), D documents"));
  CHECK(refusal({write_tokens<int>(tensor, {}, {0})}) == concat(tensor.string(), ": tensor 'tokens' of shape (0,) has no element"));
  CHECK(refusal({write_tokens<int>(tensor, {3, 4, -5}, {3})}) ==
        concat(tensor.string(), ": token 2 is -5, not within 0 and 16777215"));
  CHECK(refusal({write_tokens<int>(tensor, {3, 1 << 24}, {1, 2})}) ==
        concat(tensor.string(), ": token 1 is 16777216, not within 0 and 16777215"));
  CHECK_SAYS(refusal({write_tokens<std::uint64_t>(tensor, {std::uint64_t{1} << 63}, {1})}), concat(tensor.string(), ": "));
  io::write_safetensors(tensor, {});
  CHECK_SAYS(refusal({tensor}), concat(tensor.string(), ": has no tensor 'tokens'"));
  CHECK_SAYS(refusal({folder.write("broken.safetensors", "x")}), concat(in("broken.safetensors"), ": "));
}

TEST_CASE("corpus: files and folders that may not be read are an error, not a smaller corpus") {
  test::Folder const folder;
  test::open_to_all(folder.path());
  folder.write("a", "text");
  auto const closed = folder.write("b", "secret");
  std::filesystem::permissions(closed, std::filesystem::perms::none);
  auto const refused = [&] {
    test::Unprivileged const nobody;
    return refusal({folder.path()});
  };
  CHECK(refused() == concat(closed.string(), ": cannot be opened: Permission denied"));
  std::filesystem::remove(closed);
  std::filesystem::create_directory(folder / "c");
  std::filesystem::permissions(folder / "c", std::filesystem::perms::none);
  CHECK(refused() == concat((folder / "c").string(), ": cannot be listed: Permission denied"));
  std::filesystem::permissions(folder / "c", std::filesystem::perms::owner_all);
}

TEST_CASE("corpus: moving one leaves its text where it is") {
  test::Folder const folder;
  folder.write("a", "small");
  folder.write("b", std::string(100000, 'l'));
  auto corpus = io::Corpus::open(folder.path());
  std::string const before = text(corpus, 0) + text(corpus, 1);
  io::Corpus const moved = std::move(corpus);
  CHECK(text(moved, 0) + text(moved, 1) == before);
}
