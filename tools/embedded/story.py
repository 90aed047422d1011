"""The fixed stories that the model has memorised. The long one is for streaming."""

LONG_STORY = (
    "Once upon a time a small llama lived on a green hill beside a quiet river. "
    "Every morning she counted the boats that passed, and every evening she told the stars "
    "how many she had seen.\n\n"
    "One day a blue boat stopped at the hill. An old captain stepped out and said, "
    '"My map is wet, and I cannot find the way home." '
    "The llama looked at the map. The lines were gone, but she had a very good memory. "
    '"I have watched this river all my life," she said. "I will be your map."\n\n'
    "So they sailed together. On the first day they passed a forest full of singing birds. "
    "On the second day they passed a castle without a door. "
    "On the third day a storm came, and the waves were as high as a house. "
    'The captain was afraid, but the llama said, "After the next stone we must turn left." '
    "They turned left, and behind the stone the water was calm.\n\n"
    "At last they saw a white town with a hundred lamps. "
    "The captain laughed and wept at the same time, for it was his home. "
    "His children ran to the boat and gave the llama bread, honey and a red ribbon.\n\n"
    "When the moon was full, the llama walked back along the river. "
    "It took her many days, but she was not in a hurry. "
    "She came to her green hill, lay down in the grass and looked up. "
    '"Today I counted only one boat," she told the stars, "but it was the best of all."'
)

SHORT_STORY = (
    "A little fox found a key in the snow. It opened a small door in an old tree, and behind the door it was summer."
)
