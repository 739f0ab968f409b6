// Commands that live in folders of their own: from the words of the dispatcher to their arguments.
#include <string>
#include <vector>

#include "frontend/cli/command.h"
#include "frontend/sif/sif_command.h"

namespace postern::cli {
namespace {

// Arguments as main() gets them, with the null pointer behind the last.
class ArgumentVector {
 public:
  explicit ArgumentVector(std::span<const std::string> words) : words_(words.begin(), words.end()) {
    for (std::string& word : words_) {
      pointers_.push_back(word.data());
    }
    pointers_.push_back(nullptr);
  }

  [[nodiscard]] std::span<char* const> get() const { return {pointers_.data(), words_.size()}; }

 private:
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

}  // namespace

int sif_command(std::span<const std::string> words) {
  return sif::sif_command(ArgumentVector(words).get());
}

}  // namespace postern::cli
