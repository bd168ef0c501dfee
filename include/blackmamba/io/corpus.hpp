#pragma once
/// \file
/// Text to learn from: files and folders as documents of tokens, in place.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <blackmamba/core/shape.hpp>
#include <blackmamba/io/corpus_files.hpp>
#include <blackmamba/io/tensor_file.hpp>

namespace blackmamba::io {

struct CorpusOptions {
  std::optional<Token> end_of_document{};  ///< a token that ends a document within a file, and is the last one of it
};

namespace detail {

/// A 64-bit hash of a run of bytes: any change of one 8-byte word changes it.
inline std::uint64_t hash_bytes(std::uint64_t seed, std::span<std::byte const> bytes) {
  constexpr std::uint64_t odd = 0x9E3779B97F4A7C15u;
  auto const mix = [](std::uint64_t h, std::uint64_t word) {
    h = (h ^ word) * odd;
    return h ^ h >> 29;
  };
  // Four chains, so that a multiplication need not wait for the one before it.
  std::uint64_t lane[4]{seed, seed + 1, seed + 2, seed + 3};
  std::size_t at = 0;
  for (; bytes.size() - at >= 32; at += 32)
    for (int i = 0; i < 4; ++i) {
      std::uint64_t word;
      std::memcpy(&word, bytes.data() + at + 8 * i, sizeof word);
      lane[i] = mix(lane[i], word);
    }
  std::uint64_t tail[4]{};
  if (at < bytes.size()) std::memcpy(tail, bytes.data() + at, bytes.size() - at);
  std::uint64_t hash = mix(seed, bytes.size());
  for (int i = 0; i < 4; ++i) hash = mix(hash, mix(lane[i], tail[i]));
  return hash;
}

}  // namespace detail

/// Documents of tokens over files that stay where they are. Satisfies `TokenSource` (train/source.hpp).
///
/// A path names a file or a folder. Paths keep their order; the files of a folder come in the order of their paths below it, byte
/// by byte, so the corpus is the same on every machine. By the ending of its name a file is
///
///   `.bin`          tokens of 16 bits, unsigned, little-endian; one document
///   `.safetensors`  one integer tensor `tokens`: (n) is one document, (D, n) are D
///   anything else   bytes, each a token; one document
///
/// and all of them must be bytes, or all tokens. `end_of_document` cuts the documents of a file, but not the rows of a (D, n)
/// tensor, after each such token.
///
/// In a folder, and all folders below it, hidden names are passed over, and so are links to folders (they could lead in a circle),
/// files that are not regular, empty ones, and those of bytes with a zero among them, which are no text. A file that is named is
/// read whatever it holds. A file that is reached twice, also by another name, counts once. `skipped()` lists what was passed over,
/// and why; a file or folder that cannot be read is an error.
///
/// Files of more than 64 KiB are mapped; smaller ones are read, which takes the same time and leaves mappings, of which a process
/// may have some 65,000, to files that are worth one. Opening reads everything once.
///
/// Throws `file_error` with the path, and place and value where a token is the matter; `value_error` if no path is given, or a
/// document is to end with a negative token.
class Corpus {
 public:
  static Corpus open(std::span<std::filesystem::path const> paths, CorpusOptions const& options = {}) {
    check_value(!paths.empty(), "corpus", "no path to any text is given");
    check_value(!options.end_of_document || *options.end_of_document >= 0, "corpus", "the token that ends documents is ",
                options.end_of_document.value_or(0), ", not at least 0");
    detail::CorpusFiles found{paths};
    Corpus out;
    out.skipped_ = std::move(found.skipped);
    for (auto const& file : found.files) out.add(file, options);
    if (out.documents_.empty())
      throw file_error(
          concat(paths.front().string(), paths.size() > 1 ? concat(" and ", paths.size() - 1, " more") : "", ": there is no text; ",
                 out.skipped_.size(), " files were passed over",
                 out.skipped_.empty() ? "" : concat(", such as ", out.skipped_[0].path, " (", out.skipped_[0].reason, ")")));
    out.survey();
    return out;
  }
  static Corpus open(std::filesystem::path const& path, CorpusOptions const& options = {}) {
    return open(std::span{&path, 1}, options);
  }

  Index documents() const { return static_cast<Index>(documents_.size()); }
  Index length(Index i) const { return document(i).length; }

  /// Copies `out.size()` tokens of document i, from `begin` on; on any thread.
  void read(Index i, Index begin, std::span<Token> out) const {
    auto const& from = document(i);
    convert(from.dtype, from.data + begin * size_of(from.dtype), out);
  }

  /// The file that document i lies in.
  std::string const& path(Index i) const { return files_[document(i).file].path; }

  Index tokens() const { return tokens_; }
  Index files() const { return static_cast<Index>(files_.size()); }
  std::vector<SkippedFile> const& skipped() const { return skipped_; }

  /// Whether tokens are the bytes of text, so that losses in bits are bits per byte.
  bool is_bytes() const { return bytes_; }

  Token largest_token() const { return static_cast<Token>(counts_.size()) - 1; }

  /// How often each token up to the largest occurs.
  std::span<Index const> counts() const { return counts_; }

  /// Entropy of one token, in bits: the loss of the best model that does not look at what came before.
  double unigram_entropy() const {
    double bits = 0;
    for (Index const count : counts_)
      if (count > 0) {
        double const p = static_cast<double>(count) / static_cast<double>(tokens_);
        bits -= p * std::log2(p);
      }
    return bits;
  }

  /// A hash of every token, of where documents begin and of their order, not of the paths: a corpus that is moved keeps it.
  std::uint64_t fingerprint() const { return fingerprint_; }

  /// Throws `value_error` with file and place of the first token that a vocabulary of `vocab` does not have.
  void check_vocabulary(Index vocab) const {
    if (largest_token() < vocab) return;
    for (Index i = 0; i < documents(); ++i)
      each_block(document(i), [&](Index begin, std::span<Index const> values) {
        for (std::size_t k = 0; k < values.size(); ++k)
          check_value(values[k] < vocab, "corpus", path(i), ": token ", place(document(i), begin + static_cast<Index>(k)), " is ",
                      values[k], ", outside the vocabulary of ", vocab);
      });
  }

 private:
  /// Larger numbers are no tokens of anybody, and would make a long table of counts.
  static constexpr Index most_tokens = Index{1} << 24;
  static constexpr std::size_t mapped_from = (std::size_t{1} << 16) + 1;

  struct File {
    std::string path;
    MappedFile mapped{};
    std::vector<std::byte> small{};
    TensorFile tensors{};
    std::byte const* data = nullptr;  ///< of its first element

    explicit File(std::string name) : path{std::move(name)} {}
  };
  struct Document {
    std::byte const* data;
    Index length;
    std::uint32_t file;
    DType dtype;
  };

  Document const& document(Index i) const { return documents_[static_cast<std::size_t>(i)]; }

  /// Where in its file a token of a document stands.
  Index place(Document const& document, Index i) const {
    return (document.data - files_[document.file].data) / size_of(document.dtype) + i;
  }

  /// Calls `f(begin, values)` for every stretch of a document.
  template <class F>
  void each_block(Document const& document, F&& f) const {
    Index values[4096];
    for (Index begin = 0; begin < document.length; begin += std::ssize(values)) {
      std::span const block{values, static_cast<std::size_t>(std::min(document.length - begin, Index{std::ssize(values)}))};
      convert(document.dtype, document.data + begin * size_of(document.dtype), block);
      f(begin, std::span<Index const>{block});
    }
  }

  void add(detail::CorpusFile const& from, CorpusOptions const& options) {
    files_.emplace_back(from.path);
    File& file = files_.back();
    bool const kept = from.path.ends_with(".safetensors") ? add_tensor(file, options)
                      : from.path.ends_with(".bin")       ? add_bytes(file, from.named, DType::u16, options)
                                                          : add_bytes(file, from.named, DType::u8, options);
    if (!kept) return files_.pop_back();
    bool const bytes = !from.path.ends_with(".safetensors") && !from.path.ends_with(".bin");
    if (files_.size() == 1) bytes_ = bytes;
    if (bytes != bytes_)
      throw file_error(concat(from.path, ": holds ", bytes ? "bytes" : "tokens", ", but ", files_.front().path, " holds ",
                              bytes ? "tokens" : "bytes", "; learn from one or the other"));
  }

  /// Says whether the file is part of the corpus.
  bool add_bytes(File& file, bool named, DType dtype, CorpusOptions const& options) {
    auto const bytes = contents(file);
    file.data = bytes.data();
    auto const pass_over = [&](char const* reason) {
      if (named) throw file_error(concat(file.path, ": is ", reason));
      skipped_.push_back({file.path, reason});
      return false;
    };
    if (bytes.empty()) return pass_over("empty");
    bool const text = dtype == DType::u8;
    if (text && !named && std::memchr(bytes.data(), 0, bytes.size())) return pass_over("not text: it has zero bytes");
    auto const size = static_cast<Index>(bytes.size());
    if (size % size_of(dtype) != 0)
      throw file_error(concat(file.path, ": has ", size, " bytes, which are not whole tokens of ", size_of(dtype), " bytes"));
    add_row(bytes.data(), size / size_of(dtype), dtype, options.end_of_document);
    return true;
  }

  bool add_tensor(File& file, CorpusOptions const& options) {
    file.tensors = TensorFile::open(file.path);
    auto const& tensor = file.tensors.info("tokens");
    auto const where = [&] { return concat(file.path, ": tensor 'tokens' of shape ", to_string(tensor.shape)); };
    if (is_floating(tensor.dtype) || tensor.dtype == DType::boolean)
      throw file_error(concat(where(), " has elements of ", to_string(tensor.dtype), ", not integers"));
    if (tensor.shape.empty() || tensor.shape.size() > 2)
      throw file_error(concat(where(), " is neither (n), one document, nor (D, n), D documents"));
    file.data = tensor.data;
    bool const rows = tensor.shape.size() == 2;
    Index const length = tensor.shape.back(), count = rows ? tensor.shape[0] : 1;
    if (length == 0 || count == 0) throw file_error(concat(where(), " has no element"));
    for (Index i = 0; i < count; ++i)
      add_row(tensor.data + i * length * size_of(tensor.dtype), length, tensor.dtype,
              rows ? std::nullopt : options.end_of_document);
    return true;
  }

  /// One document, or what `end` cuts it into.
  void add_row(std::byte const* data, Index length, DType dtype, std::optional<Token> end) {
    Document whole{data, length, static_cast<std::uint32_t>(files_.size() - 1), dtype};
    Index begin = 0;
    auto const add_until = [&](Index stop) {
      if (stop > begin) documents_.push_back({data + begin * size_of(dtype), stop - begin, whole.file, dtype});
      begin = stop;
    };
    if (end)
      each_block(whole, [&](Index at, std::span<Index const> values) {
        for (std::size_t k = 0; k < values.size(); ++k)
          if (values[k] == *end) add_until(at + static_cast<Index>(k) + 1);
      });
    add_until(length);
  }

  /// Maps a large file, reads a small one.
  static std::span<std::byte const> contents(File& file) {
    auto const fail = [&](char const* what) {
      throw file_error(concat(file.path, ": ", what, ": ", detail::system_message(errno)));
    };
    detail::Descriptor const opened{::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (!opened) fail("cannot be opened");
    struct stat status;
    if (::fstat(opened.get(), &status) != 0) fail("cannot be examined");
    if (!S_ISREG(status.st_mode)) throw file_error(concat(file.path, ": is not a regular file"));
    auto const size = static_cast<std::size_t>(status.st_size);
    if (size >= mapped_from) {
      file.mapped = MappedFile{file.path};
      return file.mapped.bytes();
    }
    file.small.resize(size);
    std::size_t filled = 0;
    while (filled < size) {
      auto const got = ::read(opened.get(), file.small.data() + filled, size - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("cannot be read");
      if (got == 0) throw file_error(concat(file.path, ": became shorter while it was read: ", filled, " of ", size, " bytes"));
      filled += static_cast<std::size_t>(got);
    }
    return file.small;
  }

  /// Counts, checks and hashes every token.
  void survey() {
    fingerprint_ = bytes_;
    for (auto const& document : documents_) {
      auto const& file = files_[document.file];
      try {
        each_block(document, [&](Index begin, std::span<Index const> values) { count(document, begin, values); });
      } catch (value_error const& e) {
        throw file_error(concat(file.path, ": ", e.what()));
      }
      auto const bytes = static_cast<std::size_t>(document.length * size_of(document.dtype));
      fingerprint_ = detail::hash_bytes(fingerprint_, {document.data, bytes});
      tokens_ += document.length;
    }
  }

  void count(Document const& document, Index begin, std::span<Index const> values) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      Index const token = values[k];
      if (token < 0 || token >= most_tokens)
        throw file_error(concat(files_[document.file].path, ": token ", place(document, begin + static_cast<Index>(k)), " is ",
                                token, ", not within 0 and ", most_tokens - 1));
      if (token >= std::ssize(counts_)) counts_.resize(static_cast<std::size_t>(token) + 1);
      ++counts_[static_cast<std::size_t>(token)];
    }
  }

  std::deque<File> files_;  ///< never moves a file: documents point into them
  std::vector<Document> documents_;
  std::vector<SkippedFile> skipped_;
  std::vector<Index> counts_;
  Index tokens_ = 0;
  std::uint64_t fingerprint_ = 0;
  bool bytes_ = true;
};

}  // namespace blackmamba::io
