"""A campaign of bad inputs against the `flowar` command: whatever comes from outside, it ends in one clear line.

    python tests/campaign                       300 cases
    python tests/campaign --full --seed 1       3,000
    python tests/campaign --seed 1 --case 42    one of them again, with all that it printed; its folder stays

A case is a command that works, seen to do so when the campaign begins, with one thing made wrong: an option, a file, a
picture, a folder, or what is around the process. Seed and number determine a case, whatever the others are: what a
property-based tester would add, a shrunk example, is of little use to a command line with one fault, and it would not
give a fixed number of cases, spread evenly over commands, each with files and a process of its own.

`process.py` runs a command, `verdict.py` says what is wrong with the way in which it ended, `commands.py` has those
that work, and the other files each make one kind of thing wrong.
"""
