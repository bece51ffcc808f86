"""The scores of fid_kid.py: features of pictures, the networks that give them, distances, paired distances."""
