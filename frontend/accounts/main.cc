// postern-accounts KEY VALUE…: asks the C library for accounts, for bin/postern, which is linked
// statically. For each question a line of passwd(5) or group(5), empty where there is none.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "frontend/accounts/words.h"
#include "policy/accounts/accounts.h"
#include "protocol/exit_codes.h"

int main(int argc, char** argv) {
  namespace accounts = postern::accounts;
  std::vector<accounts::Question> questions;
  for (int i = 1; i + 1 < argc; i += 2) {
    const auto word = std::find(accounts::kWords.begin(), accounts::kWords.end(), argv[i]);
    if (word != accounts::kWords.end()) {
      questions.push_back(
          {static_cast<accounts::Key>(word - accounts::kWords.begin()), argv[i + 1]});
    }
  }
  if (argc < 3 || questions.size() != static_cast<std::size_t>(argc - 1) / 2 || argc % 2 == 0) {
    std::fputs("postern-accounts is started by postern: KEY VALUE...\n", stderr);
    return postern::kExitUsage;
  }
  std::string text;
  for (const std::string& line : accounts::look_up(questions)) {
    text += line + '\n';
  }
  return std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 1 : 0;
}
